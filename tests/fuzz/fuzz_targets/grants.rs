//! Operations on the grant tables of three domains, beside a plain model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overcast_core::grant::model;

fuzz_target!(|bytes: &[u8]| model::run(bytes));
