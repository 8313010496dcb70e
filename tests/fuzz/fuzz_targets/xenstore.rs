//! A hostile domain on its ring of xenstore, while another wants to be served
//! (see `overcast_core::xenstore::model`).
#![no_main]

use libfuzzer_sys::fuzz_target;
use overcast_core::xenstore::model;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.len().min(4096);
    model::run(&bytes[..end]).unwrap_or_else(|error| panic!("{error}"));
});
