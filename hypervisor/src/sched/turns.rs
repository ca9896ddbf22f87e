//! An order of turns: whoever had one waits until all the others had theirs.

use alloc::vec::Vec;
use core::mem;

/// Those that wait for their turns.
pub struct Turns<T> {
    waiting: Vec<T>,
    /// Whose turn is next.
    next: usize,
}

impl<T> Default for Turns<T> {
    /// Nobody waits.
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            next: 0,
        }
    }
}

impl<T> Turns<T> {
    /// Whose turn is next.
    pub fn first(&self) -> Option<&T> {
        self.waiting.get(self.next)
    }

    /// Puts the one whose turn is next in the place of `current`, which waits from now on
    /// and is returned; `None`, and nothing changes, if nobody waits.
    #[inline]
    pub fn exchange(&mut self, current: &mut T) -> Option<&mut T> {
        let last = self.waiting.len();
        let place = self.waiting.get_mut(self.next)?;
        mem::swap(place, current);
        self.next = match self.next + 1 {
            next if next == last => 0,
            next => next,
        };
        Some(place)
    }

    /// Takes in one that waits until all others had their turns.
    pub fn push_last(&mut self, new: T) {
        self.waiting.insert(self.next, new);
        self.next = (self.next + 1) % self.waiting.len();
    }

    /// Takes out the first in the order of turns that `fits`.
    pub fn pop_first(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let fits = |place: &usize| self.waiting.get(*place).is_some_and(&fits);
        let mut places = (self.next..self.waiting.len()).chain(0..self.next);
        let place = places.find(fits)?;
        let first = self.waiting.remove(place);
        if place < self.next {
            self.next -= 1;
        } else if self.next == self.waiting.len() {
            self.next = 0;
        }
        Some(first)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter()
    }

    /// As [`Self::iter`], to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.waiting.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn turns_come_in_the_order_of_a_queue(acts in proptest::collection::vec(0..4_u8, 0..60)) {
            let (mut turns, mut queue, mut current) = (Turns::default(), VecDeque::new(), 0);
            for (new, act) in (1..).zip(acts) {
                prop_assert_eq!(turns.first(), queue.front());
                match act {
                    0 => {
                        turns.push_last(new);
                        queue.push_back(new);
                    }
                    1 => prop_assert_eq!(turns.pop_first(|_| true), queue.pop_front()),
                    2 => {
                        let even = queue.iter().position(|number| number % 2 == 0);
                        let even = even.and_then(|place| queue.remove(place));
                        prop_assert_eq!(turns.pop_first(|number| number % 2 == 0), even);
                    }
                    _ => {
                        let before = current;
                        let exchanged = turns.exchange(&mut current).copied();
                        prop_assert_eq!(exchanged, queue.front().map(|_| before));
                        if let Some(next) = queue.pop_front() {
                            prop_assert_eq!(current, next);
                            queue.push_back(before);
                        }
                    }
                }
                prop_assert_eq!(turns.iter().count(), queue.len());
            }
        }
    }
}
