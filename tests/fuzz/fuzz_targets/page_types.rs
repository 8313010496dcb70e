//! Hostile guests' operations on page tables, with everything recounted after
//! each (see `overcast_core::mm::model`).
#![no_main]

use libfuzzer_sys::fuzz_target;
use overcast_core::mm::model;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.len().min(8 * 200);
    let world = model::run(&bytes[..end]).unwrap_or_else(|error| panic!("{error}"));
    world.finish().unwrap_or_else(|error| panic!("{error}"));
});
