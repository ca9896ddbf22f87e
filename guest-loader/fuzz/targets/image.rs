//! Images, whatever they are.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| guest_loader_fuzz::image(data));
