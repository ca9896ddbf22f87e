//! Recognises and lays out guest images.
#![no_std]
#![forbid(unsafe_code)]
