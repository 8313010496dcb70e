//! A domain of this machine as what a stream is made from ([`Leaving`]), and as what one is
//! put into ([`Arriving`]).

use overcast_core::cpuid::FeatureSet;
use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::{DomctlExtVcpucontext, DomctlTscInfo, DomctlVcpuMsr};
use xen_abi::xen::{DOMID_XEN, MMUEXT_PIN_L1_TABLE};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::stream::p2m::PER_PAGE;
use crate::stream::record::{CpuPolicy, PageType, TscInfo, VcpuPart, VcpuState};
use crate::stream::restore::Target;
use crate::stream::save::{Export, Source};
use crate::stream::{self, Mfn, NO_FRAME, PAGE_SIZE, Page, Pfn};
use crate::xen::domctl::{self, PageReader};
use crate::xen::foreign::{Access, ForeignMap};

/// Frames of a piece of the machine-to-physical table, as `XENMEM_machphys_mfn_list` gives it.
const CHUNK: u64 = (2 << 20) / PAGE_SIZE as u64;
/// Bytes of an entry of that table.
const ENTRY: u64 = 8;
/// Page types that are asked for at a time.
const TYPES: usize = 1024;

/// An error of this machine, in a stream's words.
pub fn machine(error: Error) -> stream::Error {
    stream::Error::Machine(Box::new(error))
}

/// A domain that is saved.
pub struct Leaving<'a> {
    control: &'a Control,
    domain: u16,
    vcpus: u32,
    online: Vec<bool>,
    shared_info: Mfn,
    /// What guests call each machine frame.
    machine_to_physical: ForeignMap,
    /// The guest's own list of its frames.
    list: Option<ForeignMap>,
    list_pages: u64,
    /// Where the hypervisor gives pages in the stream's form.
    reader: Option<PageReader>,
}

impl<'a> Leaving<'a> {
    /// Maps what is needed of a domain.
    ///
    /// # Errors
    /// `Usage` if it is no 64-bit guest; what the hypervisor refuses.
    pub fn new(control: &'a Control, domain: u16) -> Result<Self> {
        let info = control.domain_info(domain)?;
        if control.address_size(domain)? != 64 {
            return Err(Error::Usage(format!("domain {domain} is no 64-bit guest")));
        }
        let end = control.maximum_ram_page()?.0;
        let chunks = end.saturating_mul(ENTRY).div_ceil(2 << 20);
        let frames: Vec<Mfn> = control
            .machphys_frames(usize::try_from(chunks).unwrap_or(usize::MAX))?
            .iter()
            .flat_map(|first| (first.0..first.0.saturating_add(CHUNK)).map(Mfn))
            .collect();
        let vcpus = info.max_vcpu_id.saturating_add(1);
        let online = control
            .vcpus(&crate::control::DomainInfo::from(&info))?
            .iter()
            .map(|vcpu| vcpu.online)
            .collect();
        Ok(Self {
            control,
            domain,
            vcpus,
            online,
            shared_info: Mfn(info.shared_info_frame),
            machine_to_physical: ForeignMap::new(
                control.privcmd(),
                DOMID_XEN,
                &frames,
                Access::Read,
            )?,
            list: None,
            list_pages: 0,
            reader: control.page_reader(domain)?,
        })
    }

    fn map(&self, frames: &[Mfn]) -> stream::Result<ForeignMap> {
        ForeignMap::new(self.control.privcmd(), self.domain, frames, Access::Read).map_err(machine)
    }
}

impl Source for Leaving<'_> {
    fn vcpus(&self) -> u32 {
        self.vcpus
    }

    fn shared_info(&mut self) -> stream::Result<Box<Page>> {
        self.read(self.shared_info).map(Box::new)
    }

    fn read(&mut self, mfn: Mfn) -> stream::Result<Page> {
        let mut page = [0; PAGE_SIZE];
        match self.map(&[mfn])?.read(0, 0, &mut page) {
            true => Ok(page),
            false => Err(stream::Error::Guest(format!(
                "frame {:#x} of the machine cannot be read",
                mfn.0
            ))),
        }
    }

    fn set_p2m(&mut self, pages: &[Mfn]) -> stream::Result<()> {
        let list = ForeignMap::all(self.control.privcmd(), self.domain, pages, Access::Read);
        self.list = Some(list.map_err(machine)?);
        self.list_pages = pages.len() as u64;
        Ok(())
    }

    fn mfn(&self, pfn: Pfn) -> Mfn {
        let page = pfn.0 / PER_PAGE;
        self.list
            .as_ref()
            .filter(|_| page < self.list_pages)
            .and_then(|list| list.load(page as usize, (pfn.0 % PER_PAGE) as usize))
            .map_or(NO_FRAME, Mfn)
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let entries = PAGE_SIZE as u64 / ENTRY;
        let page = usize::try_from(mfn.0 / entries).ok()?;
        self.machine_to_physical
            .load(page, (mfn.0 % entries) as usize)
            .map(Pfn)
    }

    fn types(&mut self, mfns: &[Mfn]) -> stream::Result<Vec<Option<PageType>>> {
        let mut kinds = vec![Some(PageType::INVALID); mfns.len()];
        // What the guest marks as no frame of its own has high bits.
        let wanted: Vec<(usize, u64)> = mfns
            .iter()
            .enumerate()
            .filter(|(_, mfn)| mfn.0 >> 52 == 0)
            .map(|(index, mfn)| (index, mfn.0))
            .collect();
        for chunk in wanted.chunks(TYPES) {
            let mut answers: Vec<u64> = chunk.iter().map(|&(_, mfn)| mfn).collect();
            self.control
                .page_types(self.domain, &mut answers)
                .map_err(machine)?;
            for (&(index, _), answer) in chunk.iter().zip(answers) {
                kinds[index] = PageType::from_domctl(answer);
            }
        }
        Ok(kinds)
    }

    fn pages(&mut self, mfns: &[Mfn], each: &mut dyn FnMut(usize, &Page)) -> stream::Result<()> {
        if mfns.is_empty() {
            return Ok(());
        }
        let map = self.map(mfns)?;
        let mut page = [0; PAGE_SIZE];
        for place in 0..mfns.len() {
            if map.read(place, 0, &mut page) {
                each(place, &page);
            }
        }
        Ok(())
    }

    fn export(
        &mut self,
        pfns: &[Pfn],
        max: Pfn,
        elide: bool,
        into: &mut Export,
    ) -> stream::Result<bool> {
        let (Some(reader), Some(list)) = (&mut self.reader, &self.list) else {
            return Ok(false);
        };
        let list = (list, max.0.saturating_add(1));
        let (numbers, data) = self
            .control
            .read_pages(self.domain, reader, list, pfns, elide)
            .map_err(machine)?;
        into.numbers.clear();
        into.numbers.extend_from_slice(numbers);
        into.data.clear();
        into.data.extend_from_slice(data);
        Ok(true)
    }

    fn cpu_policy(&mut self) -> stream::Result<CpuPolicy> {
        let policy = self.control.cpu_policy(self.domain).map_err(machine)?;
        Ok(CpuPolicy {
            leaves: policy.leaves,
            msrs: policy.msrs,
        })
    }

    fn tsc(&mut self) -> stream::Result<TscInfo> {
        let info = self.control.tsc_info(self.domain).map_err(machine)?;
        Ok(TscInfo {
            mode: info.tsc_mode,
            khz: info.gtsc_khz,
            nsec: info.elapsed_nsec,
            incarnation: info.incarnation,
            reserved: 0,
        })
    }

    fn vcpu(&mut self, vcpu: u32) -> stream::Result<Option<VcpuState>> {
        if !self.online.get(vcpu as usize).is_some_and(|&online| online) {
            return Ok(None);
        }
        let (control, domain) = (self.control, self.domain);
        let mut state = VcpuState::default();
        let mut set = |part, bytes: &[u8]| *state.part_mut(part) = bytes.to_vec();
        let basic = control.vcpu_context(domain, vcpu).map_err(machine)?;
        set(VcpuPart::Basic, basic.as_bytes());
        let extended = control.ext_vcpu_context(domain, vcpu).map_err(machine)?;
        if extended.size != 0 {
            set(VcpuPart::Extended, extended.as_bytes());
        }
        set(
            VcpuPart::Xsave,
            &control.vcpu_xstate(domain, vcpu).map_err(machine)?,
        );
        set(
            VcpuPart::Msrs,
            control.vcpu_msrs(domain, vcpu).map_err(machine)?.as_bytes(),
        );
        Ok(Some(state))
    }
}

/// A domain that is restored: made, with vCPUs, and without memory.
pub struct Arriving<'a> {
    control: &'a Control,
    domain: u16,
    /// Also with a CPU that this machine cannot give whole.
    force_cpu: bool,
    /// What its programs may have seen of CPUs elsewhere, beside its policy.
    seen: FeatureSet,
}

impl<'a> Arriving<'a> {
    /// For a new domain.
    pub fn new(control: &'a Control, domain: u16, force_cpu: bool) -> Self {
        Self {
            control,
            domain,
            force_cpu,
            seen: FeatureSet::default(),
        }
    }

    /// The same, whose programs may have seen so much beside its policy.
    pub fn seen(self, seen: FeatureSet) -> Self {
        Self { seen, ..self }
    }
}

impl Target for Arriving<'_> {
    fn populate(&mut self, pfns: &[Pfn]) -> stream::Result<Vec<Mfn>> {
        self.control.populate(self.domain, pfns).map_err(machine)
    }

    fn write(&mut self, mfns: &[Mfn], data: &[u8]) -> stream::Result<()> {
        if mfns.is_empty() {
            return Ok(());
        }
        let map = ForeignMap::all(self.control.privcmd(), self.domain, mfns, Access::Write)
            .map_err(machine)?;
        for (index, page) in data.chunks_exact(PAGE_SIZE).enumerate() {
            if !map.write(index, 0, page) {
                return Err(stream::Error::Guest("a frame cannot be written".into()));
            }
        }
        Ok(())
    }

    fn read(&mut self, mfn: Mfn) -> stream::Result<Page> {
        let map = ForeignMap::all(self.control.privcmd(), self.domain, &[mfn], Access::Read)
            .map_err(machine)?;
        let mut page = [0; PAGE_SIZE];
        match map.read(0, 0, &mut page) {
            true => Ok(page),
            false => Err(stream::Error::Guest("a frame cannot be read".into())),
        }
    }

    fn shared_info(&mut self) -> stream::Result<Mfn> {
        let info = self.control.domain_info(self.domain).map_err(machine)?;
        Ok(Mfn(info.shared_info_frame))
    }

    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> stream::Result<()> {
        let policy = domctl::CpuPolicy {
            leaves: policy.leaves.clone(),
            msrs: policy.msrs.clone(),
        };
        if !self.force_cpu {
            // The hypervisor, as Xen, takes out what it cannot give and says nothing.
            let found =
                crate::cpu::obstacles(self.control, &policy, &self.seen).map_err(machine)?;
            if !found.is_empty() {
                let why = format!(
                    "this machine's CPU will not do (--force-cpu restores it all the same): {}",
                    crate::cpu::told(&found)
                );
                return Err(machine(Error::Unfit(why)));
            }
        }
        self.control
            .set_cpu_policy(self.domain, &policy)
            .map_err(machine)
    }

    fn set_tsc(&mut self, tsc: &TscInfo) -> stream::Result<()> {
        let mut info = DomctlTscInfo::new_zeroed();
        info.tsc_mode = tsc.mode;
        info.gtsc_khz = tsc.khz;
        info.elapsed_nsec = tsc.nsec;
        info.incarnation = tsc.incarnation;
        self.control
            .set_tsc_info(self.domain, &info)
            .map_err(machine)
    }

    fn set_vcpu(&mut self, vcpu: u32, state: &VcpuState) -> stream::Result<()> {
        let (control, domain) = (self.control, self.domain);
        let wrong = |part: VcpuPart| {
            stream::Error::record(part.kind().name(), format!("of vCPU {vcpu}: wrong size"))
        };
        let bytes = |part| &state.part(part)[..];
        let basic = VcpuGuestContext::read_from_bytes(bytes(VcpuPart::Basic))
            .map_err(|_| wrong(VcpuPart::Basic))?;
        control
            .set_vcpu_context(domain, vcpu, &basic)
            .map_err(machine)?;
        if !bytes(VcpuPart::Extended).is_empty() {
            let mut extended = DomctlExtVcpucontext::read_from_bytes(bytes(VcpuPart::Extended))
                .map_err(|_| wrong(VcpuPart::Extended))?;
            extended.vcpu = vcpu;
            control
                .set_ext_vcpu_context(domain, &extended)
                .map_err(machine)?;
        }
        if !bytes(VcpuPart::Xsave).is_empty() {
            control
                .set_vcpu_xstate(domain, vcpu, bytes(VcpuPart::Xsave))
                .map_err(machine)?;
        }
        let msrs: Vec<DomctlVcpuMsr> = bytes(VcpuPart::Msrs)
            .chunks_exact(size_of::<DomctlVcpuMsr>())
            .filter_map(|msr| DomctlVcpuMsr::read_from_bytes(msr).ok())
            .collect();
        match msrs.is_empty() {
            true => Ok(()),
            false => control.set_vcpu_msrs(domain, vcpu, &msrs).map_err(machine),
        }
    }

    fn pin(&mut self, tables: &[(u8, Mfn)]) -> stream::Result<()> {
        let pins: Vec<(u32, Mfn)> = tables
            .iter()
            .map(|&(level, mfn)| (MMUEXT_PIN_L1_TABLE + u32::from(level) - 1, mfn))
            .collect();
        self.control.pin_tables(self.domain, &pins).map_err(machine)
    }
}
