//! What comes over the connection of a migration: messages and frames of a stream, packed or
//! not. Nothing unpacks to more than a piece.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use overcast_agent::migrate::config;
use overcast_agent::migrate::wire::{self, FromSource, FromTarget, Hello, PIECE, StreamReader, items};

/// Reads a stream to its end; how much came.
fn unpack(bytes: &[u8]) -> usize {
    let mut reader = StreamReader::of(items(bytes));
    let mut buffer = [0; 4096];
    let mut sum = 0;
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        sum += count;
    }
    let _ = reader.finish();
    sum
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    match mode % 6 {
        0 => {
            if let Ok(hello) = wire::receive::<Hello>(&mut &data[..]) {
                let _ = hello.version();
            }
        }
        1 => {
            if let Ok(FromSource::Offer(offer)) = wire::receive(&mut &data[..]) {
                let _ = config::from_json(&offer.config);
            }
        }
        2 => drop(wire::receive::<FromTarget>(&mut &data[..])),
        3 => drop(std::str::from_utf8(data).map(config::from_json)),
        4 => {
            // Each frame has five bytes of a head at least.
            assert!(unpack(data) <= data.len() / 5 * PIECE);
        }
        _ => {
            // Frames with right lengths: a kind, a length, what follows.
            let (mut frames, mut rest, mut count) = (Vec::new(), data, 0);
            while let Some((&[kind, length], more)) = rest.split_first_chunk() {
                let (payload, more) = more.split_at(usize::from(length).min(more.len()));
                frames.extend((payload.len() as u32).to_le_bytes());
                frames.push(kind % 8);
                frames.extend(payload);
                (rest, count) = (more, count + 1);
            }
            assert!(unpack(&frames) <= count * PIECE);
        }
    }
});
