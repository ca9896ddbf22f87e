//! Who sits at a machine's console.

use std::{
    collections::VecDeque,
    io::{BufRead, Write},
    sync::mpsc::{self, Receiver},
    thread,
};

/// Who sits at the console.
pub trait Operator {
    /// What came from the machine: text with line ends, not always whole lines.
    fn show(&mut self, text: &str);

    /// What goes to the machine now.
    fn keys(&mut self) -> Vec<u8>;
}

/// A person at our own standard input and output.
pub struct Person(Receiver<Vec<u8>>);

impl Person {
    /// Begins to read what is typed, a line at a time, as terminals deliver it.
    pub fn sit_down() -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            let mut input = std::io::stdin().lock();
            while input
                .read_until(b'\n', &mut line)
                .is_ok_and(|bytes| bytes > 0)
            {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }
}

impl Operator for Person {
    fn show(&mut self, text: &str) {
        print!("{text}");
        // A terminal that is gone is told by the next write.
        let _ = std::io::stdout().flush();
    }

    fn keys(&mut self) -> Vec<u8> {
        self.0.try_iter().flatten().collect()
    }
}

/// An operator who waits for a text and then types a line; without steps, nobody.
#[derive(Default)]
pub struct Script {
    steps: VecDeque<(&'static str, &'static str)>,
    seen: String,
}

impl Script {
    /// For each step, the text to wait for and the line to type then.
    pub fn new(steps: &[(&'static str, &'static str)]) -> Self {
        Self {
            steps: steps.iter().copied().collect(),
            seen: String::new(),
        }
    }
}

impl Operator for Script {
    fn show(&mut self, text: &str) {
        if !self.steps.is_empty() {
            self.seen.push_str(text);
        }
    }

    fn keys(&mut self) -> Vec<u8> {
        match self.steps.front() {
            Some((text, line)) if self.seen.contains(text) => {
                self.seen.clear();
                let keys = format!("{line}\n").into_bytes();
                self.steps.pop_front();
                keys
            }
            _ => Vec::new(),
        }
    }
}
