//! Extended state in Linux' userland, as a program sees it.

fn main() {
    println!("here");
}
