//! Operations on event channels of two domains, beside a plain model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overcast_core::event::model;

fuzz_target!(|bytes: &[u8]| model::run(bytes));
