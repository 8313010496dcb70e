//! Where a guest's frames are: the map that a restore builds up ([`Map`]), and the list that
//! a running guest keeps, found through its page tables ([`List`]).

use std::collections::BTreeMap;

use xen_abi::xen::SharedInfo;
use zerocopy::FromBytes;

use super::record::{PageType, valid};
use super::save::Source;
use super::tables::{self, ENTRIES};
use super::{Error, Mfn, NO_FRAME, Page, Pfn, Result};

/// Frames that a page of the guest's list tells of.
pub const PER_PAGE: u64 = 512;

struct Chunk {
    mfns: [Mfn; PER_PAGE as usize],
    types: [PageType; PER_PAGE as usize],
}

/// Where the frames of a guest that is put together are, and what they are. Takes memory
/// for each 512 frames of which there is one.
#[derive(Default)]
pub struct Map {
    chunks: BTreeMap<u64, Box<Chunk>>,
    pages: u64,
}

impl Map {
    /// Where a frame is.
    pub fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        let chunk = self.chunks.get(&(pfn.0 / PER_PAGE))?;
        valid(chunk.mfns[(pfn.0 % PER_PAGE) as usize])
    }

    /// What a frame is.
    pub fn kind(&self, pfn: Pfn) -> PageType {
        self.chunks
            .get(&(pfn.0 / PER_PAGE))
            .map_or(PageType::INVALID, |chunk| {
                chunk.types[(pfn.0 % PER_PAGE) as usize]
            })
    }

    fn chunk(&mut self, pfn: Pfn) -> &mut Chunk {
        self.chunks.entry(pfn.0 / PER_PAGE).or_insert_with(|| {
            Box::new(Chunk {
                mfns: [NO_FRAME; PER_PAGE as usize],
                types: [PageType::INVALID; PER_PAGE as usize],
            })
        })
    }

    /// A frame is there now, an ordinary one until [`Map::set_kind`] tells otherwise.
    pub fn set(&mut self, pfn: Pfn, mfn: Mfn) {
        let index = (pfn.0 % PER_PAGE) as usize;
        let chunk = self.chunk(pfn);
        let new = chunk.mfns[index] == NO_FRAME;
        chunk.mfns[index] = mfn;
        chunk.types[index] = PageType::NORMAL;
        self.pages += u64::from(new);
    }

    /// What a frame is now; nothing happens where there is none.
    pub fn set_kind(&mut self, pfn: Pfn, kind: PageType) {
        if self.mfn(pfn).is_some() {
            self.chunk(pfn).types[(pfn.0 % PER_PAGE) as usize] = kind;
        }
    }

    /// Number of frames.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// All frames with what they are.
    pub fn iter(&self) -> impl Iterator<Item = (Pfn, Mfn, PageType)> {
        self.chunks.iter().flat_map(|(&number, chunk)| {
            (number * PER_PAGE..)
                .zip(chunk.mfns.iter().zip(&chunk.types))
                .filter(|(_, (mfn, _))| **mfn != NO_FRAME)
                .map(|(pfn, (&mfn, &kind))| (Pfn(pfn), mfn, kind))
        })
    }

    /// The page of the guest's list for a frame and its neighbours.
    pub fn page(&self, number: u64) -> Page {
        let mut page = [0xff; super::PAGE_SIZE];
        if let Some(chunk) = self.chunks.get(&number) {
            for (slot, mfn) in page.chunks_exact_mut(8).zip(&chunk.mfns) {
                slot.copy_from_slice(&mfn.0.to_le_bytes());
            }
        }
        page
    }
}

/// Where a running guest keeps the list of its frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// Highest frame that the list tells of.
    pub max_pfn: Pfn,
    /// The pages of the list, in order.
    pub pages: Vec<Mfn>,
    /// `p2m_generation` when this was found: odd, or another one later, and it may be wrong.
    pub generation: u64,
}

/// The highest frame number that a list may have: what a stream may tell of.
const HIGHEST: u64 = super::Limits::MOST.max_pfn;

impl List {
    /// Finds the list, as the guest says in the page that it shares with the hypervisor: as
    /// a range of virtual addresses (`p2m_cr3`, `p2m_vaddr`), or in older guests as a tree
    /// of three levels.
    ///
    /// # Errors
    /// `Guest` if it leads nowhere.
    pub fn find(source: &mut impl Source) -> Result<Self> {
        let page = source.shared_info()?;
        let Ok((shared, _)) = SharedInfo::read_from_prefix(&page[..]) else {
            return Err(Error::Guest("no shared page".into()));
        };
        let arch = shared.arch;
        let Some(max_pfn) = arch.max_pfn.checked_sub(1).filter(|&max| max < 1 << 40) else {
            return Err(Error::Guest(format!(
                "it does not say where its frames are (max_pfn {:#x}): its kernel is not up",
                arch.max_pfn
            )));
        };
        let (pages, generation) = match arch.p2m_cr3 {
            0 => (
                tree(source, Mfn(arch.pfn_to_mfn_frame_list_list), max_pfn)?,
                0,
            ),
            cr3 => {
                if arch.p2m_generation & 1 != 0 {
                    return Err(Error::Guest("it is moving the list of its frames".into()));
                }
                (
                    walk(source, Mfn(cr3 >> 12), arch.p2m_vaddr, max_pfn)?,
                    arch.p2m_generation,
                )
            }
        };
        let told = (pages.len() as u64).saturating_mul(PER_PAGE);
        let max_pfn = max_pfn.min(told.saturating_sub(1));
        if max_pfn > HIGHEST {
            return Err(Error::Guest(format!("more than 1 TiB: frame {max_pfn:#x}")));
        }
        Ok(Self {
            max_pfn: Pfn(max_pfn),
            pages,
            generation,
        })
    }
}

/// The number of things to keep of a list where the last ones are all the same: those
/// stand for frames that are not there. (Real ones cannot be shared.)
fn without_tail(all: &[u64]) -> usize {
    let Some(&last) = all.last() else { return 0 };
    let run = all.iter().rev().take_while(|&&one| one == last).count();
    if run > 1 { all.len() - run } else { all.len() }
}

/// The list as a tree: the frame names tables, those name the pages of the list.
fn tree(source: &mut impl Source, top: Mfn, max_pfn: u64) -> Result<Vec<Mfn>> {
    let bad = |mfn: u64| Error::Guest(format!("bad frame {mfn:#x} in the list of its frames"));
    let middles = max_pfn / (PER_PAGE * PER_PAGE) + 1;
    if middles > PER_PAGE {
        return Err(Error::Guest(format!(
            "max_pfn {max_pfn:#x} does not fit a tree"
        )));
    }
    let entries: Vec<u64> = tables::entries(&source.read(top)?)
        .take(middles as usize)
        .collect();
    let keep = without_tail(&entries).max(1);
    let mut pages = Vec::new();
    for &middle in &entries[..keep.min(entries.len())] {
        if middle == 0 {
            return Err(bad(middle));
        }
        pages.extend(tables::entries(&source.read(Mfn(middle))?).map(Mfn));
    }
    pages.truncate((max_pfn / PER_PAGE + 1) as usize);
    match pages.iter().find(|mfn| mfn.0 == 0) {
        Some(mfn) => Err(bad(mfn.0)),
        None => Ok(pages),
    }
}

/// The list as a range of virtual addresses.
fn walk(source: &mut impl Source, top: Mfn, start: u64, max_pfn: u64) -> Result<Vec<Mfn>> {
    let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
    let count = max_pfn / PER_PAGE + 1;
    let end = start.checked_add(count * super::PAGE_SIZE as u64 - 1);
    let xen = 0xffff_8000_0000_0000..0xffff_8800_0000_0000u64;
    let Some(end) = end.filter(|&end| {
        canonical(start)
            && canonical(end)
            && start.is_multiple_of(4096)
            && !(start < xen.end && end >= xen.start)
    }) else {
        return Err(Error::Guest(format!(
            "the list of its frames cannot be at {start:#x}"
        )));
    };
    let index = |address: u64, level: u32| ((address >> (3 + 9 * level)) & 511) as usize;
    let missing = |address: u64| {
        Error::Guest(format!(
            "nothing is mapped at {address:#x}, in the list of its frames"
        ))
    };
    // Level 1 tables for the range, then what they map.
    let mut tables_1 = Vec::new();
    let mut cached: [Option<(Mfn, Box<Page>)>; 5] = [const { None }; 5];
    let mut address = start;
    loop {
        let mut table = top;
        for level in (2..=4u32).rev() {
            let slot = &mut cached[level as usize];
            if slot.as_ref().is_none_or(|(mfn, _)| *mfn != table) {
                *slot = Some((table, Box::new(source.read(table)?)));
            }
            let entry = slot
                .as_ref()
                .and_then(|(_, page)| tables::entries(page).nth(index(address, level)))
                .filter(|entry| entry & tables::PRESENT != 0)
                .ok_or_else(|| missing(address))?;
            table = Mfn(tables::frame(entry));
        }
        tables_1.push(table.0);
        match (address | 0x1f_ffff).checked_add(1) {
            Some(next) if next <= end => address = next,
            _ => break,
        }
    }
    let keep = without_tail(&tables_1).max(1);
    let mut pages = Vec::new();
    let mut first = index(start, 1);
    for &table in &tables_1[..keep.min(tables_1.len())] {
        let page = source.read(Mfn(table))?;
        for entry in tables::entries(&page).skip(first) {
            if pages.len() as u64 == count {
                break;
            }
            if entry & tables::PRESENT == 0 {
                return Err(missing(start + pages.len() as u64 * 4096));
            }
            pages.push(Mfn(tables::frame(entry)));
        }
        first = 0;
    }
    debug_assert!(first < ENTRIES);
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_grow_by_what_is_put_in() {
        let mut map = Map::default();
        assert_eq!(map.mfn(Pfn(7)), None);
        map.set(Pfn(1 << 27), Mfn(5));
        map.set(Pfn(1 << 27), Mfn(6));
        map.set_kind(Pfn(3), PageType::BROKEN);
        assert_eq!(map.chunks.len(), 1);
        assert_eq!(map.pages(), 1);
        assert_eq!(map.mfn(Pfn(1 << 27)), Some(Mfn(6)));
        assert_eq!(map.page((1 << 27) / 512)[..8], 6u64.to_le_bytes());
        assert_eq!(map.page(0), [0xff; 4096]);
        assert_eq!(map.iter().count(), 1);
    }

    #[test]
    fn tails_of_the_same_are_left_out() {
        assert_eq!(without_tail(&[]), 0);
        assert_eq!(without_tail(&[4]), 1);
        assert_eq!(without_tail(&[1, 2, 3]), 3);
        assert_eq!(without_tail(&[1, 9, 9, 9]), 1);
        assert_eq!(without_tail(&[9, 9]), 0);
    }
}
