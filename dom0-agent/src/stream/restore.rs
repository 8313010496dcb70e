//! Puts a guest together from a stream.
//!
//! The order that is asked for: `X86_PV_INFO` and the CPU policy, `STATIC_DATA_END` (in
//! version 2 it is implied), `X86_PV_P2M_FRAMES`, pages, everything else, `END`. Nothing of a
//! vCPU reaches the hypervisor before the end of the stream was seen, so a stream that
//! breaks off leaves a domain that never ran and can be taken away.

use std::io::Read;
use std::time::{Duration, Instant};

use xen_abi::arch_x86::VcpuGuestContext;
use zerocopy::{FromBytes, IntoBytes};

use super::p2m::{Map, PER_PAGE};
use super::reader::Reader;
use super::record::*;
use super::state::{RingFrames, Rings};
use super::*;

/// The domain that is put together: new, with no page of memory.
pub trait Target {
    /// Gives the domain pages for frames; they are zeros. One answer for each.
    fn populate(&mut self, pfns: &[Pfn]) -> Result<Vec<Mfn>>;
    /// Fills frames with pages, one after the other in `data`.
    fn write(&mut self, mfns: &[Mfn], data: &[u8]) -> Result<()>;
    /// A page.
    fn read(&mut self, mfn: Mfn) -> Result<Page>;
    /// The frame of the page that it shares with the hypervisor.
    fn shared_info(&mut self) -> Result<Mfn>;
    /// The CPU that it is to see.
    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()>;
    /// How it is to see time.
    fn set_tsc(&mut self, tsc: &TscInfo) -> Result<()>;
    /// The state of a vCPU, with machine frames.
    fn set_vcpu(&mut self, vcpu: u32, state: &VcpuState) -> Result<()>;
    /// Pins page tables: level and frame.
    fn pin(&mut self, tables: &[(u8, Mfn)]) -> Result<()>;
}

/// A guest that was put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// Where its rings are.
    pub rings: RingFrames,
    /// Its pages.
    pub pages: u64,
    /// How long it took behind the end of the stream.
    pub finish: Duration,
}

/// Page tables pinned in one go.
const PINS: usize = 1024;

/// Pages of the guest's list of frames written in one go.
const LISTS: usize = 256;

struct Restorer<'a, T> {
    target: &'a mut T,
    version: u32,
    limits: Limits,
    seen_info: bool,
    seen_static_end: bool,
    policy: CpuPolicy,
    /// Highest frame, once the list of frames was told of.
    max_pfn: Option<Pfn>,
    list: Vec<Option<Pfn>>,
    map: Map,
    tsc: Option<TscInfo>,
    shared_info: Option<Box<Page>>,
    vcpus: Vec<VcpuState>,
    verifying: bool,
}

/// Restores a domain from the stream that begins in `from`; `rings` are the event channels
/// made for it. `progress` is told how many pages arrived, and ends it by an error.
///
/// # Errors
/// Those of the stream ([`Error`]); the domain must be taken away then.
pub fn restore<R: Read, T: Target>(
    reader: &mut Reader<R>,
    limits: Limits,
    target: &mut T,
    rings: Rings,
    mut progress: impl FnMut(u64) -> Result<()>,
) -> Result<Restored> {
    let mut restorer = Restorer {
        target,
        version: reader.header().version,
        limits,
        seen_info: false,
        seen_static_end: false,
        policy: CpuPolicy::default(),
        max_pfn: None,
        list: Vec::new(),
        map: Map::default(),
        tsc: None,
        shared_info: None,
        vcpus: Vec::new(),
        verifying: false,
    };
    loop {
        match reader.record()? {
            Record::End => return restorer.end(rings),
            record => {
                let pages = restorer.record(record)?;
                progress(pages)?;
            }
        }
    }
}

impl<T: Target> Restorer<'_, T> {
    /// Takes a record other than the last; the number of pages in it.
    fn record(&mut self, record: Record) -> Result<u64> {
        let name = record.name();
        let misplaced = |why: &str| Err(Error::record(name, why));
        match record {
            Record::PvInfo if self.seen_info => return misplaced("a second one"),
            Record::PvInfo => self.seen_info = true,
            Record::CpuidPolicy(_) | Record::MsrPolicy(_) if self.seen_static_end => {
                return misplaced("after STATIC_DATA_END");
            }
            Record::CpuidPolicy(leaves) => self.policy.leaves = leaves,
            Record::MsrPolicy(msrs) => self.policy.msrs = msrs,
            Record::StaticDataEnd if self.seen_static_end => return misplaced("a second one"),
            Record::StaticDataEnd => self.static_data_end(name)?,
            Record::P2mFrames { start, end, frames } => {
                self.implied_static_end(name)?;
                self.p2m_frames(start, end, frames)?;
            }
            Record::Pages(mut pages) => {
                self.implied_static_end(name)?;
                let count = pages.pages.len() as u64;
                if !self.verifying {
                    self.pages(&mut pages)?;
                }
                return Ok(count);
            }
            Record::Vcpu { vcpu, part, state } => {
                if state.is_empty() {
                    return Ok(0);
                }
                if vcpu >= self.limits.max_vcpus {
                    return misplaced("of a vCPU that the domain does not have");
                }
                let index = vcpu as usize;
                if self.vcpus.len() <= index {
                    self.vcpus.resize_with(index + 1, VcpuState::default);
                }
                *self.vcpus[index].part_mut(part) = state;
            }
            Record::SharedInfo(page) => self.shared_info = Some(page),
            Record::Tsc(tsc) => self.tsc = Some(tsc),
            Record::Verify => self.verifying = true,
            Record::Optional(_) | Record::End => {}
        }
        Ok(0)
    }

    fn static_data_end(&mut self, name: &'static str) -> Result<()> {
        if !self.seen_info {
            return Err(Error::record(name, "before X86_PV_INFO"));
        }
        self.seen_static_end = true;
        if self.policy != CpuPolicy::default() {
            self.target.set_cpu_policy(&self.policy)?;
        }
        Ok(())
    }

    fn implied_static_end(&mut self, name: &'static str) -> Result<()> {
        match self.seen_static_end {
            true => Ok(()),
            false if self.version < 3 => self.static_data_end(name),
            false => Err(Error::record(name, "before STATIC_DATA_END")),
        }
    }

    fn p2m_frames(&mut self, start: Pfn, end: Pfn, frames: Vec<Pfn>) -> Result<()> {
        self.max_pfn = Some(self.max_pfn.map_or(end, |max| max.max(end)));
        let length = (end.0 / PER_PAGE + 1) as usize;
        if self.list.len() < length {
            self.list.resize(length, None);
        }
        let first = (start.0 / PER_PAGE) as usize;
        for (slot, frame) in self.list.iter_mut().skip(first).zip(frames) {
            *slot = Some(frame);
        }
        Ok(())
    }

    /// Gives the domain those of the frames that it does not have yet.
    fn populate(&mut self, wanted: impl Iterator<Item = Pfn>) -> Result<()> {
        let mut missing: Vec<Pfn> = wanted.filter(|&pfn| self.map.mfn(pfn).is_none()).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let mfns = self.target.populate(&missing)?;
        for (&pfn, &mfn) in missing.iter().zip(&mfns) {
            self.map.set(pfn, mfn);
        }
        Ok(())
    }

    fn pages(&mut self, pages: &mut Pages) -> Result<()> {
        let wrong = |why: String| Error::record(Kind::PageData.name(), why);
        let Some(max) = self.max_pfn else {
            return Err(wrong("before X86_PV_P2M_FRAMES".into()));
        };
        if let Some((pfn, _)) = pages.pages.iter().find(|(pfn, _)| *pfn > max) {
            return Err(wrong(format!(
                "frame {:#x}; the guest's last is {:#x}",
                pfn.0, max.0
            )));
        }
        // Pages of zeros that are there already were something else before.
        let clear: Vec<Mfn> = pages
            .pages
            .iter()
            .filter(|(_, kind)| *kind == PageType::ALLOCATE)
            .filter_map(|&(pfn, _)| self.map.mfn(pfn))
            .collect();
        let there = pages.pages.iter().filter(|(_, kind)| kind.has_page());
        self.populate(there.map(|&(pfn, _)| pfn))?;
        // Tables may refer to frames that come later.
        let mut referred = Vec::new();
        for (pfn, kind, page) in pages.iter() {
            let (Some(page), Some(_)) = (page, kind.level()) else {
                continue;
            };
            for to in tables::references(page) {
                if to > max {
                    return Err(wrong(format!(
                        "page table {:#x} refers to frame {:#x}; the guest's last is {:#x}",
                        pfn.0, to.0, max.0
                    )));
                }
                if self.map.mfn(to).is_none() {
                    referred.push(to);
                }
            }
        }
        self.populate(referred.into_iter())?;
        let mut mfns = Vec::with_capacity(pages.pages.len());
        let mut data = pages.data.chunks_exact_mut(PAGE_SIZE);
        for &(pfn, kind) in &pages.pages {
            let stored = match kind {
                PageType::ALLOCATE => PageType::NORMAL,
                kind => kind,
            };
            self.map.set_kind(pfn, stored);
            if !kind.has_data() {
                continue;
            }
            let (Some(page), Some(mfn)) = (data.next(), self.map.mfn(pfn)) else {
                return Err(wrong(format!("frame {:#x} has no contents", pfn.0)));
            };
            mfns.push(mfn);
            if let (Some(level), Some(raw)) = (kind.level(), page.first_chunk::<PAGE_SIZE>()) {
                let local = tables::localise(raw, level, pfn, |pfn| self.map.mfn(pfn))?;
                page.copy_from_slice(&local);
            }
        }
        if !clear.is_empty() {
            self.target
                .write(&clear, &vec![0; clear.len() * PAGE_SIZE])?;
        }
        self.target.write(&mfns, &pages.data)
    }

    /// The end: everything that waited for it.
    fn end(mut self, rings: Rings) -> Result<Restored> {
        let begin = Instant::now();
        let missing =
            |kind: Kind| Error::record(Kind::End.name(), format!("without {}", kind.name()));
        let Some(max) = self.max_pfn else {
            return Err(missing(Kind::PvP2mFrames));
        };
        let mut vcpus = std::mem::take(&mut self.vcpus);
        let context =
            |state: &VcpuState| VcpuGuestContext::read_from_bytes(state.part(VcpuPart::Basic)).ok();
        if vcpus.first().and_then(context).is_none() {
            return Err(missing(Kind::PvVcpuBasic));
        }
        let Some(saved) = self.shared_info.take() else {
            return Err(missing(Kind::SharedInfo));
        };
        let frame = self.target.shared_info()?;
        let mut page = self.target.read(frame)?;
        state::merge_shared_info(&mut page, &saved);
        self.target.write(&[frame], &page)?;

        let mut frames = None;
        for (vcpu, state) in (0u32..).zip(&mut vcpus) {
            let Some(mut context) = context(state) else {
                continue;
            };
            state::localise_context(&mut context, vcpu, &self.map)?;
            if vcpu == 0 {
                let at = Mfn(context.user_regs.rdx);
                let mut page = self.target.read(at)?;
                let nr_pages = max.0 + 1;
                frames = Some(state::localise_start_info(
                    &mut page, &self.map, nr_pages, frame, rings,
                )?);
                self.target.write(&[at], &page)?;
            }
            state
                .part_mut(VcpuPart::Basic)
                .copy_from_slice(context.as_bytes());
            self.target.set_vcpu(vcpu, state)?;
        }
        let Some(rings) = frames else {
            return Err(missing(Kind::PvVcpuBasic));
        };
        if let Some(tsc) = &self.tsc {
            self.target.set_tsc(tsc)?;
        }
        self.write_list()?;
        self.pin()?;
        Ok(Restored {
            rings,
            pages: self.map.pages(),
            finish: begin.elapsed(),
        })
    }

    /// Tells the guest where its frames are now.
    fn write_list(&mut self) -> Result<()> {
        let wrong = |why: String| Error::record(Kind::PvP2mFrames.name(), why);
        let mut all = Vec::with_capacity(self.list.len());
        for (number, frame) in (0u64..).zip(&self.list) {
            let Some(pfn) = *frame else {
                return Err(wrong(format!(
                    "the list's page for frame {:#x} is missing",
                    number * PER_PAGE
                )));
            };
            let mfn = self
                .map
                .mfn(pfn)
                .filter(|_| self.map.kind(pfn) == PageType::NORMAL);
            let Some(mfn) = mfn else {
                return Err(wrong(format!(
                    "a page of the list is frame {:#x}, which is no ordinary page of the guest",
                    pfn.0
                )));
            };
            all.push((number, mfn));
        }
        // The guest waits: not one by one.
        for some in all.chunks(LISTS) {
            let mfns: Vec<Mfn> = some.iter().map(|&(_, mfn)| mfn).collect();
            let pages: Vec<Page> = some.iter().map(|&(at, _)| self.map.page(at)).collect();
            self.target.write(&mfns, pages.as_flattened())?;
        }
        Ok(())
    }

    fn pin(&mut self) -> Result<()> {
        let mut pins = Vec::with_capacity(PINS);
        for (_, mfn, kind) in self.map.iter() {
            if let (Some(level), true) = (kind.level(), kind.pinned()) {
                pins.push((level, mfn));
            }
            if pins.len() == PINS {
                self.target.pin(&pins)?;
                pins.clear();
            }
        }
        match pins.is_empty() {
            true => Ok(()),
            false => self.target.pin(&pins),
        }
    }
}
