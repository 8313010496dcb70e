//! Memory of domains (`memory.h`, `mmuext_op` of `xen.h`).

use overcast_core::addr::{Mfn, Pfn};
use overcast_core::ids::EventPort;
use xen_abi::event_channel::{EVTCHNOP_ALLOC_UNBOUND, EvtchnAllocUnbound};
use xen_abi::memory::*;
use xen_abi::xen::{
    HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_MMUEXT_OP, MmuextOp,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::privcmd::Buffer;
use crate::control::Control;
use crate::error::{Error, Result};

/// Frames that are asked for at a time.
const CHUNK: usize = 64 << 10;
/// Bytes of an entry of the memory map (`struct e820entry`, packed).
const E820_ENTRY: usize = 20;
/// `E820_RAM`
const E820_RAM: u32 = 1;

impl Control {
    /// A buffer with one item, for a hypercall's argument.
    fn argument<T: FromBytes + IntoBytes + Immutable + Copy>(&self, value: T) -> Result<Buffer<T>> {
        let mut buffer = self.privcmd().buffer::<T>(1)?;
        buffer.items_mut()[0] = value;
        Ok(buffer)
    }

    fn memory_op<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        operation: &'static str,
        cmd: u32,
        argument: &mut T,
    ) -> Result<i64> {
        let buffer = self.argument(*argument)?;
        let args = [u64::from(cmd), buffer.handle().0];
        let result = self
            .privcmd()
            .call(operation, HYPERVISOR_MEMORY_OP, &args)?;
        *argument = buffer.items()[0];
        Ok(result)
    }

    /// Gives a domain pages of 4 KiB at some places of its memory; gives their frames, in order.
    ///
    /// # Errors
    /// `ENOMEM` if not all could be had; those that were stay the domain's.
    pub fn populate(&self, domain: u16, pages: &[Pfn]) -> Result<Vec<Mfn>> {
        const OPERATION: &str = "give the domain memory";
        let mut frames = Vec::with_capacity(pages.len());
        let mut buffer = self.privcmd().buffer::<u64>(CHUNK.min(pages.len()))?;
        for chunk in pages.chunks(CHUNK) {
            let numbers = &mut buffer.items_mut()[..chunk.len()];
            for (slot, pfn) in numbers.iter_mut().zip(chunk) {
                *slot = pfn.0;
            }
            let mut argument = MemoryReservation::new_zeroed();
            argument.extent_start = buffer.handle();
            argument.nr_extents = chunk.len() as u64;
            argument.domid = domain;
            let done = self.memory_op(OPERATION, XENMEM_POPULATE_PHYSMAP, &mut argument)?;
            if usize::try_from(done) != Ok(chunk.len()) {
                return Err(Error::Hypercall {
                    operation: OPERATION,
                    errno: xen_abi::errno::ENOMEM,
                });
            }
            let got = &buffer.items()[..chunk.len()];
            frames.extend(got.iter().map(|&mfn| Mfn(mfn)));
        }
        Ok(frames)
    }

    /// Sets the memory map that a domain is told: RAM from 0 to `bytes`.
    pub fn set_memory_map(&self, domain: u16, bytes: u64) -> Result<()> {
        let mut map = self.privcmd().buffer::<u8>(E820_ENTRY)?;
        // Address, size, type.
        map.items_mut()[8..16].copy_from_slice(&bytes.to_le_bytes());
        map.items_mut()[16..20].copy_from_slice(&E820_RAM.to_le_bytes());
        let mut argument = ForeignMemoryMap::new_zeroed();
        argument.domid = domain;
        argument.map.nr_entries = 1;
        argument.map.buffer = map.handle();
        self.memory_op("set the memory map", XENMEM_SET_MEMORY_MAP, &mut argument)?;
        Ok(())
    }

    /// One more than the number of the machine's last frame of RAM.
    pub fn maximum_ram_page(&self) -> Result<Mfn> {
        let end = self.privcmd().call(
            "ask for the machine's memory",
            HYPERVISOR_MEMORY_OP,
            &[u64::from(XENMEM_MAXIMUM_RAM_PAGE), 0],
        )?;
        Ok(Mfn(u64::try_from(end).unwrap_or(0)))
    }

    /// Frames of the machine-to-physical table, the first of each 2 MiB of it, at most `count`.
    pub fn machphys_frames(&self, count: usize) -> Result<Vec<Mfn>> {
        let list = self.privcmd().buffer::<u64>(count)?;
        let mut argument = MachphysMfnList::new_zeroed();
        argument.max_extents = u32::try_from(count).unwrap_or(u32::MAX);
        argument.extent_start = list.handle();
        self.memory_op(
            "find the machine-to-physical table",
            XENMEM_MACHPHYS_MFN_LIST,
            &mut argument,
        )?;
        let got = list.items().get(..argument.nr_extents as usize);
        Ok(got
            .unwrap_or_default()
            .iter()
            .map(|&mfn| Mfn(mfn))
            .collect())
    }

    /// Pins or unpins page tables of a domain (`MMUEXT_PIN_*_TABLE`, `MMUEXT_UNPIN_TABLE`).
    pub fn pin_tables(&self, domain: u16, tables: &[(u32, Mfn)]) -> Result<()> {
        const AT_A_TIME: usize = 512;
        for chunk in tables.chunks(AT_A_TIME) {
            let mut ops = self.privcmd().buffer::<MmuextOp>(chunk.len())?;
            for (op, &(cmd, mfn)) in ops.items_mut().iter_mut().zip(chunk) {
                op.cmd = cmd;
                op.arg1 = mfn.0;
            }
            self.privcmd().call(
                "check the domain's page tables",
                HYPERVISOR_MMUEXT_OP,
                &[ops.handle().0, chunk.len() as u64, 0, u64::from(domain)],
            )?;
        }
        Ok(())
    }

    /// Allocates a port of a domain, to which `remote` may bind.
    pub fn allocate_port(&self, domain: u16, remote: u16) -> Result<EventPort> {
        let mut argument = EvtchnAllocUnbound::new_zeroed();
        argument.dom = domain;
        argument.remote_dom = remote;
        let buffer = self.argument(argument)?;
        let args = [u64::from(EVTCHNOP_ALLOC_UNBOUND), buffer.handle().0];
        self.privcmd()
            .call("make an event channel", HYPERVISOR_EVENT_CHANNEL_OP, &args)?;
        Ok(EventPort(buffer.items()[0].port))
    }
}
