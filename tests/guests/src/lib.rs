//! Report lines for payloads.
#![no_std]
