//! Migration streams: whatever arrives, a model of a domain takes it or refuses it, and
//! stays within its pages (the model asserts that only its own frames are touched).
//!
//! The input is a list of changes to a good stream, so that they reach deep: position and
//! byte, three bytes each after the first, which chooses between that and the raw input.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use overcast_agent::stream::{
    Limits, container, model::Model, reader::Reader, restore, save::Saver, state::Rings,
};

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut model = Model::guest(64, 7, 2);
    let mut saver = Saver::new(&mut model, Vec::new(), true).expect("a head");
    let all = saver.all();
    saver.send(&all, false, |_| Ok(())).expect("pages");
    let mut stream = saver.finish().expect("a tail").1;
    // The contents of most pages do not matter, and only take time.
    stream.shrink_to_fit();
    stream
});

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let stream = match mode {
        0 => {
            let _ = container::read_begin(&mut &data[..]);
            return;
        }
        1..100 => data.to_vec(),
        _ => {
            let mut stream = GOOD.clone();
            let (head, tail) = (2400.min(stream.len()), stream.len().saturating_sub(20_000));
            for change in data.chunks_exact(3) {
                let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
                // The head and the tail are more telling than pages between.
                let at = if at < 32_768 {
                    at % head
                } else {
                    tail + at % (stream.len() - tail)
                };
                stream[at] = change[2];
            }
            stream
        }
    };
    let limits = Limits {
        max_pfn: 1 << 20,
        max_vcpus: 4,
    };
    let Ok(mut reader) = Reader::new(&stream[..], limits) else {
        return;
    };
    let mut model = Model::empty(0x9_0000, 100);
    let _ = restore::restore(
        &mut reader,
        limits,
        &mut model,
        Rings::default(),
        |_| Ok(()),
    );
    assert!(model.memory.len() <= 101);
});
