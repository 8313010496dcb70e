//! Migration streams: whatever arrives, a model of a domain takes it or refuses it, and
//! stays within its pages (the model asserts that only its own frames are touched).
//!
//! An input is a list of changes to a good stream, so that they reach deep: its first byte
//! chooses the stream ([`BASES`]), five bytes each a change ([`Change`]) to one of its records.
//! Small first bytes are for inputs that are streams, or files, themselves.
//!
//! The good streams are those of a model's guest, with all pages but the few that matter left
//! as zeros, and what real Xen wrote of one (`data/xen-4.17.records`, without its pages).
#![no_main]

use std::borrow::Cow;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use overcast_agent::stream::save::{FrameSet, Saver};
use overcast_agent::stream::{
    Limits, PAGE_SIZE, Pfn, container, model::Model, reader::Reader, restore, state::Rings,
};

const LIMITS: Limits = Limits {
    max_pfn: 1 << 20,
    max_vcpus: 4,
};
/// Bytes of the headers, in the second of which words of the version stand.
const HEAD: usize = 40;
/// Changes that count.
const MOST: usize = 48;
/// Pages of the guest that is put together.
const PAGES: usize = 100;

/// A stream: its headers, and its records with theirs.
#[derive(Clone)]
struct Base {
    head: Vec<u8>,
    records: Vec<Vec<u8>>,
}

const PAGE_DATA: u32 = 1;
const P2M_FRAMES: u32 = 3;
const STATIC_DATA_END: u32 = 0x10;

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |word| u32::from_le_bytes(word.try_into().expect("four")))
}

impl Base {
    fn split(stream: &[u8]) -> Self {
        let (head, mut rest) = stream.split_at(HEAD);
        let mut records = Vec::new();
        while !rest.is_empty() {
            let length = 8 + (word(rest, 4) as usize).next_multiple_of(8);
            let (record, after) = rest.split_at(length);
            records.push(record.to_vec());
            rest = after;
        }
        Self {
            head: head.to_vec(),
            records,
        }
    }

    fn of_kind(&self, kind: u32) -> impl Iterator<Item = &Vec<u8>> {
        self.records
            .iter()
            .filter(move |record| word(record, 0) == kind)
    }
}

/// A guest's stream in two rounds.
fn of_model(vcpus: u32) -> Base {
    let mut model = Model::guest(64, 7, vcpus);
    // start_info, and the list of frames.
    let matter = |pfn: Pfn| matches!(pfn.0, 0 | 8);
    let zeros: Vec<u64> = model
        .pfns
        .iter()
        .filter(|&(mfn, &pfn)| !matter(pfn) && !model.kinds.contains_key(mfn))
        .map(|(&mfn, _)| mfn)
        .collect();
    for mfn in zeros {
        model.memory.insert(mfn, Box::new([0; PAGE_SIZE]));
    }
    let mut saver = Saver::new(&mut model, Vec::new(), true).expect("a head");
    let all = saver.all();
    saver.send(&all, false, |_| Ok(())).expect("pages");
    let mut again = FrameSet::new(saver.max_pfn());
    for pfn in [0, 6, 20] {
        again.insert(Pfn(pfn));
    }
    saver.send(&again, false, |_| Ok(())).expect("pages");
    Base::split(&saver.finish().expect("a tail").1)
}

static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let one = of_model(1);
    let two = of_model(2);
    let mut older = one.clone();
    older.head[12..16].copy_from_slice(&2u32.to_be_bytes());
    older.records.retain(|it| word(it, 0) != STATIC_DATA_END);
    let xen = Base::split(include_bytes!("../data/xen-4.17.records"));
    // Xen's with the model's pages.
    let mut both = xen.clone();
    let place = both.records.iter().position(|it| word(it, 0) == P2M_FRAMES);
    let place = place.expect("Xen's list of frames");
    let pages = two.of_kind(P2M_FRAMES).chain(two.of_kind(PAGE_DATA));
    both.records.splice(place..=place, pages.cloned());
    vec![one, two, older, xen, both]
});

/// What is done to a record.
#[derive(Clone, Copy)]
struct Change {
    what: u8,
    record: usize,
    /// Where in it, or another record.
    at: usize,
    value: u8,
}

impl Change {
    fn new(bytes: &[u8]) -> Option<Self> {
        let &[what, record, low, high, value] = bytes else {
            return None;
        };
        Some(Self {
            what,
            record: record.into(),
            at: u16::from_le_bytes([low, high]).into(),
            value,
        })
    }

    /// A place in a record for so many bytes: the first ones are the most telling.
    fn place(self, length: usize, size: usize) -> Option<usize> {
        let room = (length / size).checked_sub(1)? + 1;
        let index = match self.at {
            at if at < 0x8000 => at % room.min(1024),
            at => (at - 0x8000) * room / 0x8000,
        };
        Some(index * size)
    }

    fn put<const N: usize>(self, record: &mut Cow<'_, [u8]>, value: [u8; N]) {
        if let Some(at) = self.place(record.len(), N) {
            record.to_mut()[at..at + N].copy_from_slice(&value);
        }
    }

    fn apply<'a>(self, records: &mut Vec<Cow<'a, [u8]>>, bases: &'a [Base]) {
        let (value, count) = (self.value, records.len());
        if count == 0 {
            return;
        }
        let (index, other) = (self.record % count, self.at % count);
        let record = &mut records[index];
        let long = u64::from(value);
        match self.what % 16 {
            0..=3 => self.put(record, [value]),
            4 => {
                if let Some(at) = self.place(record.len(), 1) {
                    record.to_mut()[at] ^= 1 << (value % 8);
                }
            }
            // Numbers of pages with a kind, entries of page tables, small and large words.
            5 => self.put(record, (long << 60 | long >> 4).to_le_bytes()),
            6 => self.put(record, (long << 12 | 0x67).to_le_bytes()),
            7 => self.put(record, (1u64 << (value % 64)).to_le_bytes()),
            8 => self.put(record, (0u64.wrapping_sub(long)).to_le_bytes()),
            9 => self.put(record, u32::from(value).to_le_bytes()),
            // Its kind, its length, its length with less of it.
            10 => record.to_mut()[..4]
                .copy_from_slice(&(self.at as u32 | u32::from(value) << 24).to_le_bytes()),
            11 => record.to_mut()[4..8].copy_from_slice(&(self.at as u32).to_le_bytes()),
            12 => {
                let length = self.at % (record.len() - 7);
                let record = record.to_mut();
                record.truncate(8 + length.next_multiple_of(8));
                record[4..8].copy_from_slice(&(length as u32).to_le_bytes());
            }
            13 => drop(records.remove(index)),
            14 => {
                let copy = record.clone();
                records.insert(other, copy);
            }
            _ if value % 2 == 0 => records.swap(index, other),
            _ => {
                let base = &bases[usize::from(value / 2) % bases.len()];
                let foreign = &base.records[self.at % base.records.len()];
                records.insert(index, Cow::Borrowed(foreign));
            }
        }
    }
}

fn read(stream: &[u8]) {
    let Ok(mut reader) = Reader::new(stream, LIMITS) else {
        return;
    };
    let mut model = Model::empty(0x9_0000, PAGES);
    let rings = Rings::default();
    let _ = restore::restore(&mut reader, LIMITS, &mut model, rings, |_| Ok(()));
    assert!(model.memory.len() <= PAGES + 1);
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    match mode {
        0 => drop(container::read_begin(&mut &data[..])),
        1..16 => read(data),
        mode => {
            let bases = &*BASES;
            let base = &bases[usize::from(mode) % bases.len()];
            let mut records: Vec<Cow<'_, [u8]>> = base
                .records
                .iter()
                .map(|it| Cow::Borrowed(&it[..]))
                .collect();
            for change in data.chunks_exact(5).take(MOST).filter_map(Change::new) {
                change.apply(&mut records, bases);
            }
            read(&[&base.head[..], &records.concat()].concat());
        }
    }
});
