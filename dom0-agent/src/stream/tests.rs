//! Model guests go into streams and come out of them; spoiled streams do not.

use proptest::prelude::*;

use super::model::Model;
use super::reader::Reader;
use super::record::*;
use super::restore::{Restored, restore};
use super::save::Saver;
use super::state::Rings;
use super::*;
use xen_abi::xen::{SharedInfo, StartInfo};
use zerocopy::FromBytes;

const RINGS: Rings = Rings {
    store_port: 3,
    console_port: 4,
};

fn saved(model: &mut Model, elide_zeros: bool) -> Vec<u8> {
    let mut saver = Saver::new(model, Vec::new(), elide_zeros).expect("a head");
    let all = saver.all();
    saver.send(&all, false, |_| Ok(())).expect("pages");
    saver.finish().expect("a tail").1
}

fn restored(stream: &[u8], limit: usize) -> Result<(Model, Restored)> {
    let mut model = Model::empty(0x9_0000, limit);
    let mut reader = Reader::new(stream, Limits::MOST)?;
    let done = restore(&mut reader, Limits::MOST, &mut model, RINGS, |_| Ok(()))?;
    Ok((model, done))
}

/// The guest as a stream has it, without the pages of its list of frames, whose contents
/// are another machine's.
fn canonical(stream: &[u8]) -> (Vec<(Pfn, PageType, Page)>, Vec<Record>) {
    let mut reader = Reader::new(stream, Limits::MOST).expect("a stream");
    let (mut pages, mut others, mut list) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match reader.record().expect("a record") {
            Record::Pages(batch) => {
                pages.extend(batch.iter().map(|(pfn, kind, page)| {
                    (pfn, kind, page.map_or([0; PAGE_SIZE], |page| *page))
                }))
            }
            Record::End => break,
            record => {
                if let Record::P2mFrames { frames, .. } = &record {
                    list.clone_from(frames);
                }
                others.push(record);
            }
        }
    }
    pages.retain(|(pfn, kind, _)| !list.contains(pfn) && *kind != PageType::INVALID);
    (pages, others)
}

/// What the guest does before it suspends: names its rings by its own numbers.
fn suspend_again(model: &mut Model, start_info: Mfn) {
    let page = model.memory.get_mut(&start_info.0).expect("a page");
    let (mut info, _) = StartInfo::read_from_prefix(&page[..]).expect("start_info");
    info.store_mfn = model.pfns[&info.store_mfn].0;
    info.console[0] = model.pfns[&info.console[0]].0;
    page[..size_of::<StartInfo>()].copy_from_slice(zerocopy::IntoBytes::as_bytes(&info));
    // It tells where its list of frames is by its new page table.
    let top = model.kinds.iter().find(|(_, kind)| kind.level() == Some(4));
    let top = *top.expect("a top table").0;
    let page = model.memory.get_mut(&1).expect("the shared page");
    let (mut shared, _) = SharedInfo::read_from_prefix(&page[..]).expect("a page");
    shared.arch.p2m_cr3 = top << 12;
    page[..size_of::<SharedInfo>()].copy_from_slice(zerocopy::IntoBytes::as_bytes(&shared));
}

fn round_trip(pages: u64, seed: u64, vcpus: u32, elide: bool) {
    let mut source = Model::guest(pages, seed, vcpus);
    let first = saved(&mut source, elide);
    let (mut target, done) = restored(&first, usize::MAX).expect("restores");
    assert_eq!(done.pages, pages - 1);
    let context = target.vcpus[0].part(VcpuPart::Basic);
    let context = xen_abi::arch_x86::VcpuGuestContext::read_from_bytes(context).expect("registers");
    let start_info = Mfn(context.user_regs.rdx);
    let (info, _) =
        StartInfo::read_from_prefix(&target.memory[&start_info.0][..]).expect("start_info");
    assert_eq!(info.store_mfn, done.rings.store.0);
    assert_eq!(info.store_evtchn, 3);
    assert_eq!(info.console, [done.rings.console.0, 4]);
    assert_eq!(target.pfns[&info.store_mfn], Pfn(1));
    assert_eq!(target.pinned.len(), 1, "the top table only");
    suspend_again(&mut target, start_info);
    let second = saved(&mut target, elide);
    let ((pages_1, others_1), (pages_2, others_2)) = (canonical(&first), canonical(&second));
    for ((pfn, kind, page), (pfn_2, kind_2, page_2)) in pages_1.iter().zip(&pages_2) {
        assert_eq!((pfn, kind), (pfn_2, kind_2));
        // The hypervisor's fields of start_info differ.
        assert!(page == page_2 || pfn.0 == 0, "frame {:#x}", pfn.0);
    }
    assert_eq!(pages_1.len(), pages_2.len());
    for (one, two) in others_1.iter().zip(&others_2) {
        match (one, two) {
            (Record::SharedInfo(_), Record::SharedInfo(_)) => {}
            _ => assert_eq!(one, two),
        }
    }
}

#[test]
fn guests_go_through_streams_unchanged() {
    round_trip(64, 3, 1, false);
    round_trip(1500, 0x1234_5678, 4, false);
    round_trip(3000, 99, 2, true);
}

#[test]
fn pages_that_became_zeros_are_zeros() {
    let mut source = Model::guest(100, 5, 1);
    let mut saver = Saver::new(&mut source, Vec::new(), true).expect("a head");
    let all = saver.all();
    saver.send(&all, true, |_| Ok(())).expect("pages");
    let page = Pfn(50);
    let mfn = save::Source::mfn(saver.source(), page);
    assert_ne!(saver.source().memory[&mfn.0][..], [0; PAGE_SIZE]);
    saver.source().set(mfn, [0; PAGE_SIZE]);
    let mut again = save::FrameSet::new(saver.max_pfn());
    again.insert(page);
    let sent = saver.send(&again, false, |_| Ok(())).expect("pages");
    assert_eq!((sent.pages, sent.zeros), (0, 1));
    let stream = saver.finish().expect("a tail").1;
    let (target, _) = restored(&stream, usize::MAX).expect("restores");
    let mfn = target
        .pfns
        .iter()
        .find(|(_, pfn)| **pfn == page)
        .expect("it")
        .0;
    assert_eq!(target.memory[mfn][..], [0; PAGE_SIZE]);
}

#[test]
fn both_ways_to_take_pages_make_the_same_stream() {
    for elide in [false, true] {
        let mut source = Model::guest(3000, 0x1234_5678, 2);
        let mapped = saved(&mut source, elide);
        source.exports = true;
        assert!(saved(&mut source, elide) == mapped);
        let mut saver = Saver::new(&mut source, Vec::new(), elide).expect("a head");
        let all = saver.all();
        saver = saver.by(save::Channel::Both);
        saver.send(&all, false, |_| Ok(())).expect("the same");
        assert!(saver.finish().expect("a tail").1 == mapped);
    }
}

#[test]
fn tables_in_the_middle_of_a_change_wait_for_the_end() {
    middle_of_a_change(false);
    middle_of_a_change(true);
}

fn middle_of_a_change(exports: bool) {
    let mut source = Model::guest(100, 5, 1);
    source.exports = exports;
    let table = *source
        .kinds
        .iter()
        .find(|(_, kind)| kind.level() == Some(1))
        .expect("a table")
        .0;
    let good = *source.memory[&table].clone();
    let mut bad = good;
    bad[..8].copy_from_slice(&(0x3_3333_3000u64 | 1).to_le_bytes());
    source.set(Mfn(table), bad);
    let pfn = source.pfns[&table];
    {
        let mut saver = Saver::new(&mut source, Vec::new(), false).expect("a head");
        let all = saver.all();
        let error = saver.send(&all, false, |_| Ok(())).expect_err("suspended");
        assert!(error.to_string().contains("not its own"), "{error}");
    }
    let mut saver = Saver::new(&mut source, Vec::new(), false).expect("a head");
    let all = saver.all();
    saver.send(&all, true, |_| Ok(())).expect("it runs");
    let deferred = saver.deferred();
    assert!(deferred.contains(pfn));
    saver.source().set(Mfn(table), good);
    saver
        .send(&deferred, false, |_| Ok(()))
        .expect("it is whole");
    assert!(saver.deferred().is_empty());
    let stream = saver.finish().expect("a tail").1;
    restored(&stream, usize::MAX).expect("restores");
}

#[test]
fn memory_that_is_refused_ends_it() {
    let stream = saved(&mut Model::guest(200, 5, 1), false);
    let error = restored(&stream, 50).expect_err("too little");
    assert!(matches!(error, Error::Machine(_)), "{error}");
}

#[test]
fn streams_that_end_early_are_told() {
    let stream = saved(&mut Model::guest(64, 5, 2), true);
    for length in (0..stream.len()).filter(|length| length % 509 < 3 || length % 4096 < 2) {
        let error = restored(&stream[..length], usize::MAX).expect_err("cut off");
        assert!(matches!(error, Error::Truncated(_)), "{length}: {error}");
    }
}

/// A stream of records, in any order.
fn stream_of(records: &[Record]) -> Vec<u8> {
    let mut writer = writer::Writer::new(Vec::new()).expect("a head");
    for record in records {
        writer.record(record).expect("a record");
    }
    writer.into_inner()
}

#[test]
fn records_in_the_wrong_place_are_named() {
    let list = || Record::P2mFrames {
        start: Pfn(0),
        end: Pfn(9),
        frames: vec![Pfn(1)],
    };
    let page = || {
        let mut pages = Pages::default();
        pages.push(Pfn(1), PageType::NORMAL, &[1; PAGE_SIZE]);
        Record::Pages(pages)
    };
    let beyond = || {
        let mut pages = Pages::default();
        pages.push(Pfn(10), PageType::NORMAL, &[1; PAGE_SIZE]);
        Record::Pages(pages)
    };
    for (records, named) in [
        (vec![Record::StaticDataEnd], "STATIC_DATA_END"),
        (vec![Record::PvInfo, Record::PvInfo], "X86_PV_INFO"),
        (vec![Record::PvInfo, list()], "X86_PV_P2M_FRAMES"),
        (
            vec![Record::PvInfo, Record::StaticDataEnd, page()],
            "PAGE_DATA",
        ),
        (
            vec![Record::PvInfo, Record::StaticDataEnd, list(), beyond()],
            "PAGE_DATA",
        ),
        (
            vec![
                Record::PvInfo,
                Record::StaticDataEnd,
                list(),
                page(),
                Record::End,
            ],
            "END",
        ),
        (
            vec![Record::PvInfo, Record::StaticDataEnd, Record::StaticDataEnd],
            "STATIC_DATA_END",
        ),
    ] {
        let error = restored(&stream_of(&records), usize::MAX).expect_err("misplaced");
        assert!(error.to_string().starts_with(named), "{named}: {error}");
    }
}

#[test]
fn files_of_xl_have_their_configuration() {
    let mut file = Vec::new();
    container::begin(&mut file, "{\"a\": 1}").expect("a file");
    container::end(&mut file).expect("an end");
    let from = &mut &file[..];
    assert_eq!(container::read_begin(from).expect("a file"), "{\"a\": 1}");
    container::read_end(from).expect("an end");
    for length in 0..file.len() {
        let from = &mut &file[..length];
        let error = container::read_begin(from).and_then(|_| container::read_end(from));
        assert!(matches!(error, Err(Error::Truncated(_))), "{length}");
    }
    file[0] ^= 1;
    assert!(matches!(
        container::read_begin(&mut &file[..]),
        Err(Error::Header { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_guest_goes_through(pages in 64u64..1400, seed: u64, vcpus in 1u32..5, elide: bool) {
        round_trip(pages, seed, vcpus, elide);
    }

    #[test]
    fn flipped_bits_never_do_harm(seed in 0u64..4, flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..8), 1..6)) {
        let mut stream = saved(&mut Model::guest(64, seed, 2), true);
        for (at, bit) in flips {
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
        }
        // The model asserts that only frames of the guest are touched.
        let _ = restored(&stream, 80);
    }

    #[test]
    fn noise_never_does_harm(noise in proptest::collection::vec(any::<u8>(), 0..600), keep in 0usize..200) {
        let mut stream = saved(&mut Model::guest(64, 1, 1), true);
        stream.truncate(keep);
        stream.extend(noise);
        let _ = restored(&stream, 80);
        let _ = container::read_begin(&mut &stream[..]);
    }
}
