//! A guest without a machine, for tests and fuzzing: memory, page tables and vCPUs that a
//! stream can be made from and put into.

use std::collections::BTreeMap;

use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::overcast::OVERCAST_PAGE_CHANGING;
use xen_abi::xen::{SharedInfo, StartInfo};
use zerocopy::{FromZeros, IntoBytes};

use super::p2m::PER_PAGE;
use super::record::*;
use super::restore::Target;
use super::save::{Export, Source};
use super::tables::PRESENT;
use super::*;

/// The guest.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Its memory.
    pub memory: BTreeMap<u64, Box<Page>>,
    /// The hypervisor's word on what the guest calls a frame.
    pub pfns: BTreeMap<u64, Pfn>,
    /// What frames are, where they are not ordinary.
    pub kinds: BTreeMap<u64, PageType>,
    /// Frame of the shared page.
    pub shared: u64,
    /// The vCPUs.
    pub vcpus: Vec<VcpuState>,
    /// CPU.
    pub policy: CpuPolicy,
    /// Time.
    pub tsc: TscInfo,
    /// Pages of the guest's list of frames, as set.
    pub list: Vec<Mfn>,
    /// The next machine frame to be given out.
    pub next: u64,
    /// Pages that it may have.
    pub limit: usize,
    /// Page tables pinned.
    pub pinned: Vec<(u8, Mfn)>,
    /// Its hypervisor gives pages in the stream's form.
    pub exports: bool,
}

/// What the machine of the model says.
#[derive(Debug, thiserror::Error)]
#[error("model: {0}")]
struct Refused(&'static str);

fn refused<T>(why: &'static str) -> Result<T> {
    Err(Error::Machine(Box::new(Refused(why))))
}

fn put(page: &mut Page, index: usize, entry: u64) {
    page[index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
}

impl Model {
    /// A new domain without memory, whose frames will be those from `first`.
    pub fn empty(first: u64, limit: usize) -> Self {
        let mut model = Self {
            shared: 1,
            next: first,
            limit,
            ..Self::default()
        };
        model.memory.insert(1, Box::new([0; PAGE_SIZE]));
        model
    }

    /// A guest of `pages` frames (64 at least) that is suspended: page tables that map all of
    /// them and the list of frames at 0xffff880000000000 and above, contents from `seed`.
    pub fn guest(pages: u64, seed: u64, vcpus: u32) -> Self {
        let mut model = Self::empty(0x1000 + seed % 0x777, usize::MAX);
        // Machine frames in another order than the guest's.
        let step = 7;
        let total = pages.next_multiple_of(step);
        let mfn = |pfn: u64| Mfn(0x1000 + seed % 0x777 + pfn * step % total + pfn * step / total);
        let mut random = seed | 1;
        for pfn in 0..pages {
            let mut page = Box::new([0; PAGE_SIZE]);
            if pfn % 3 != 0 {
                for byte in page.iter_mut().step_by(61) {
                    random = random
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    *byte = (random >> 33) as u8;
                }
            }
            // One hole.
            if pfn != pages - 2 {
                model.memory.insert(mfn(pfn).0, page);
                model.pfns.insert(mfn(pfn).0, Pfn(pfn));
            }
        }
        // Frames: 0 start_info, 1 store, 2 console, 3 GDT, 4 L4, 5 L3, 6 L2, 7 … L1s, then the list.
        let lists = pages.div_ceil(PER_PAGE);
        let mapped = pages + lists;
        let l1s = mapped.div_ceil(512);
        let list = |number: u64| 7 + l1s + number;
        assert!(list(lists) < pages - 2 && l1s <= 512, "a small guest");
        for number in 0..lists {
            let mut page = [0xff; PAGE_SIZE];
            for index in 0..PER_PAGE {
                let pfn = number * PER_PAGE + index;
                if model.pfns.contains_key(&mfn(pfn).0) && pfn < pages {
                    put(&mut page, index as usize, mfn(pfn).0);
                }
            }
            model.set(mfn(list(number)), page);
        }
        let base = 0xffff_8800_0000_0000u64;
        let entry = |pfn: u64| mfn(pfn).0 << 12 | 0x60 | PRESENT;
        let table = |model: &mut Self, pfn: u64, level, pinned, fill: &dyn Fn(usize) -> u64| {
            let mut page = [0; PAGE_SIZE];
            (0..512).for_each(|index| put(&mut page, index, fill(index)));
            model.set(mfn(pfn), page);
            let kind = PageType::table(level, pinned).unwrap_or_default();
            model.kinds.insert(mfn(pfn).0, kind);
        };
        let slot = (base >> 39 & 511) as usize;
        table(&mut model, 4, 4, true, &|index| match index {
            index if index == slot => entry(5),
            // The hypervisor's.
            256 => 0x7777_7000 | PRESENT,
            _ => 0,
        });
        table(&mut model, 5, 3, false, &|index| {
            if index == 0 { entry(6) } else { 0 }
        });
        table(&mut model, 6, 2, false, &|index| {
            if (index as u64) < l1s {
                entry(7 + index as u64)
            } else {
                0xabc0
            }
        });
        for number in 0..l1s {
            table(&mut model, 7 + number, 1, false, &|index| {
                let page = number * 512 + index as u64;
                match page {
                    page if page == pages - 2 => 0,
                    page if page < pages => entry(page),
                    page if page < mapped => entry(list(page - pages)),
                    _ => 0,
                }
            });
        }
        let mut info = StartInfo::new_zeroed();
        (info.store_mfn, info.console) = (1, [2, 0]);
        info.cmd_line[..5].copy_from_slice(b"quiet");
        let mut page = [0; PAGE_SIZE];
        page[..size_of::<StartInfo>()].copy_from_slice(info.as_bytes());
        model.set(mfn(0), page);
        let mut shared = SharedInfo::new_zeroed();
        shared.arch.max_pfn = pages;
        shared.arch.p2m_cr3 = mfn(4).0 << 12;
        shared.arch.p2m_vaddr = base + pages * PAGE_SIZE as u64;
        shared.evtchn_mask = [u64::MAX; 64];
        let mut page = [0; PAGE_SIZE];
        page[..size_of::<SharedInfo>()].copy_from_slice(shared.as_bytes());
        model.set(Mfn(1), page);
        for vcpu in 0..vcpus {
            let mut context = VcpuGuestContext::new_zeroed();
            context.user_regs.rdx = if vcpu == 0 { mfn(0).0 } else { 0x1234 };
            context.user_regs.rip = 0xffff_8800_0000_1000 + u64::from(vcpu);
            context.gdt_ents = 32;
            context.gdt_frames[0] = mfn(3).0;
            context.ctrlreg[3] = mfn(4).0 << 12;
            context.ctrlreg[1] = mfn(4).0 << 12;
            context.flags = 1 << 5;
            let mut state = VcpuState::default();
            *state.part_mut(VcpuPart::Basic) = context.as_bytes().to_vec();
            *state.part_mut(VcpuPart::Extended) = vec![vcpu as u8; 64];
            *state.part_mut(VcpuPart::Xsave) = vec![vcpu as u8; 832];
            *state.part_mut(VcpuPart::Msrs) = vec![vcpu as u8; 32];
            model.vcpus.push(state);
        }
        model.policy.leaves = vec![xen_abi::arch_x86::CpuidLeaf::new_zeroed(); 3];
        model.policy.msrs = vec![xen_abi::arch_x86::MsrEntry::new_zeroed(); 2];
        model.tsc.khz = 2_600_000;
        model
    }

    /// As the hypervisor does when a table is pinned: it and those below are tables now.
    fn validate(&mut self, level: u8, mfn: Mfn, pinned: bool) -> Result<()> {
        let Some(page) = self.memory.get(&mfn.0).cloned() else {
            return refused("a table that is no frame of the guest");
        };
        let kind = PageType::table(level, pinned).unwrap_or_default();
        match self.kinds.insert(mfn.0, kind) {
            Some(before) if before.level() != Some(level) => return refused("two kinds of table"),
            Some(_) => return Ok(()),
            None => {}
        }
        for entry in tables::entries(&page).filter(|entry| entry & PRESENT != 0) {
            if level > 1 {
                self.validate(level - 1, Mfn(tables::frame(entry)), false)?;
            }
        }
        Ok(())
    }

    /// Sets the contents of a frame.
    pub fn set(&mut self, mfn: Mfn, page: Page) {
        self.memory.insert(mfn.0, Box::new(page));
    }
}

impl Source for &mut Model {
    fn vcpus(&self) -> u32 {
        self.vcpus.len() as u32
    }

    fn shared_info(&mut self) -> Result<Box<Page>> {
        Ok(Box::new(Target::read(*self, Mfn(self.shared))?))
    }

    fn read(&mut self, mfn: Mfn) -> Result<Page> {
        Target::read(*self, mfn)
    }

    fn set_p2m(&mut self, pages: &[Mfn]) -> Result<()> {
        self.list = pages.to_vec();
        Ok(())
    }

    fn mfn(&self, pfn: Pfn) -> Mfn {
        self.list
            .get((pfn.0 / PER_PAGE) as usize)
            .and_then(|mfn| self.memory.get(&mfn.0))
            .and_then(|page| tables::entries(page).nth((pfn.0 % PER_PAGE) as usize))
            .map_or(NO_FRAME, Mfn)
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.pfns.get(&mfn.0).copied()
    }

    fn types(&mut self, mfns: &[Mfn]) -> Result<Vec<Option<PageType>>> {
        Ok(mfns
            .iter()
            .map(|mfn| match self.pfns.contains_key(&mfn.0) {
                true => Some(self.kinds.get(&mfn.0).copied().unwrap_or_default()),
                false => Some(PageType::INVALID),
            })
            .collect())
    }

    fn pages(&mut self, mfns: &[Mfn], each: &mut dyn FnMut(usize, &Page)) -> Result<()> {
        for (place, mfn) in mfns.iter().enumerate() {
            if let Some(page) = self.memory.get(&mfn.0) {
                each(place, page);
            }
        }
        Ok(())
    }

    fn export(&mut self, pfns: &[Pfn], max: Pfn, elide: bool, into: &mut Export) -> Result<bool> {
        into.numbers.clear();
        into.data.clear();
        for &pfn in pfns.iter().filter(|_| self.exports) {
            let own = |mfn: Mfn| {
                let pfn = self.pfns.get(&mfn.0).copied();
                pfn.filter(|&pfn| pfn <= max && Source::mfn(self, pfn) == mfn)
            };
            let mfn = Source::mfn(self, pfn);
            let page = self
                .memory
                .get(&mfn.0)
                .filter(|_| self.pfns.contains_key(&mfn.0));
            let kind = self.kinds.get(&mfn.0).copied().unwrap_or_default();
            let (kind, page) = match (page, kind.level()) {
                (None, _) => (Some(PageType::INVALID), None),
                (Some(page), None) if elide && page.iter().all(|&byte| byte == 0) => {
                    (Some(PageType::ALLOCATE), None)
                }
                (Some(page), None) => (Some(kind), Some(**page)),
                (Some(page), Some(level)) => match tables::canonicalise(page, level, own) {
                    Ok(page) => (Some(kind), Some(page)),
                    Err(_) => (None, None),
                },
            };
            into.numbers.push(match kind {
                Some(kind) => u64::from(kind.bits()) << 60 | pfn.0,
                None => OVERCAST_PAGE_CHANGING | pfn.0,
            });
            page.iter()
                .for_each(|page| into.data.extend_from_slice(page));
        }
        Ok(self.exports)
    }

    fn cpu_policy(&mut self) -> Result<CpuPolicy> {
        Ok(self.policy.clone())
    }

    fn tsc(&mut self) -> Result<TscInfo> {
        Ok(self.tsc)
    }

    fn vcpu(&mut self, vcpu: u32) -> Result<Option<VcpuState>> {
        Ok(self.vcpus.get(vcpu as usize).cloned())
    }
}

impl Target for Model {
    fn populate(&mut self, pfns: &[Pfn]) -> Result<Vec<Mfn>> {
        if self.memory.len() + pfns.len() > self.limit.saturating_add(1) {
            return refused("no more memory");
        }
        Ok(pfns
            .iter()
            .map(|&pfn| {
                // Not in order.
                let mfn = self.next ^ 5;
                self.next += 1;
                self.memory.insert(mfn, Box::new([0; PAGE_SIZE]));
                self.pfns.insert(mfn, pfn);
                Mfn(mfn)
            })
            .collect())
    }

    fn write(&mut self, mfns: &[Mfn], data: &[u8]) -> Result<()> {
        assert_eq!(data.len(), mfns.len() * PAGE_SIZE, "a page for each frame");
        for (mfn, page) in mfns.iter().zip(data.chunks_exact(PAGE_SIZE)) {
            match self.memory.get_mut(&mfn.0) {
                Some(memory) => memory.copy_from_slice(page),
                None => return refused("no such frame"),
            }
        }
        Ok(())
    }

    fn read(&mut self, mfn: Mfn) -> Result<Page> {
        match self.memory.get(&mfn.0) {
            Some(page) => Ok(**page),
            None => refused("no such frame"),
        }
    }

    fn shared_info(&mut self) -> Result<Mfn> {
        Ok(Mfn(self.shared))
    }

    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()> {
        self.policy = policy.clone();
        Ok(())
    }

    fn set_tsc(&mut self, tsc: &TscInfo) -> Result<()> {
        self.tsc = *tsc;
        Ok(())
    }

    fn set_vcpu(&mut self, vcpu: u32, state: &VcpuState) -> Result<()> {
        let index = vcpu as usize;
        if self.vcpus.len() <= index {
            self.vcpus.resize_with(index + 1, VcpuState::default);
        }
        self.vcpus[index] = state.clone();
        Ok(())
    }

    fn pin(&mut self, tables: &[(u8, Mfn)]) -> Result<()> {
        for (level, mfn) in tables {
            self.validate(*level, *mfn, true)?;
        }
        self.pinned.extend_from_slice(tables);
        Ok(())
    }
}
