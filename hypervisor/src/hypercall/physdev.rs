//! `physdev_op` (physdev.h), as far as a Dom0 without hardware asks.

use overcast_core::error::{Error, Result};
use xen_abi::physdev::*;
use xen_abi::xen::GuestHandle;

use super::Call;
use crate::guest;
use overcast_core::addr::GuestVirtual;

/// Global system interrupts that a question may name.
const GSIS: u32 = 256;

/// `HYPERVISOR_physdev_op(cmd, arg)`. There are no devices to be operated:
/// EPERM for what needs a privileged domain, EINVAL for interrupts that there
/// are not, ENODEV for PCI functions, ENOSYS for unknown commands.
pub fn physdev_op(call: &mut Call<'_>) -> Result<i64> {
    let arg = call.address(1);
    operate(call, call.args[0] as u32, arg)
}

/// The first form of the call: command and argument in one structure.
pub fn physdev_op_compat(call: &mut Call<'_>) -> Result<i64> {
    let command: u32 = guest::read(call.address(0))?;
    match command {
        PHYSDEVOP_IRQ_STATUS_QUERY
        | PHYSDEVOP_SET_IOPL
        | PHYSDEVOP_SET_IOBITMAP
        | PHYSDEVOP_APIC_READ
        | PHYSDEVOP_APIC_WRITE
        | PHYSDEVOP_ALLOC_IRQ_VECTOR
        | PHYSDEVOP_FREE_IRQ_VECTOR => {
            let arg = call.args[0].checked_add(8).ok_or(Error::Fault)?;
            operate(call, command, GuestVirtual(arg))
        }
        _ => Err(Error::NotImplemented),
    }
}

fn operate(call: &mut Call<'_>, command: u32, arg: GuestVirtual) -> Result<i64> {
    match command {
        PHYSDEVOP_SET_IOPL => {
            let op: PhysdevSetIopl = guest::read(arg)?;
            if op.iopl > 3 {
                return Err(Error::Invalid);
            }
            call.vcpu.iopl.set(u64::from(op.iopl) << 12);
            Ok(0)
        }
        PHYSDEVOP_SET_IOBITMAP => {
            let op: PhysdevSetIobitmap = guest::read(arg)?;
            let GuestHandle(bitmap) = op.bitmap;
            if op.nr_ports > 65536
                || !GuestVirtual(bitmap).access_ok(u64::from(op.nr_ports.div_ceil(8)))
            {
                return Err(Error::Invalid);
            }
            call.vcpu.io_bitmap.set((GuestVirtual(bitmap), op.nr_ports));
            Ok(0)
        }
        PHYSDEVOP_EOI => {
            let op: PhysdevEoi = guest::read(arg)?;
            if op.irq >= GSIS {
                return Err(Error::Invalid);
            }
            Err(Error::Invalid)
        }
        PHYSDEVOP_IRQ_STATUS_QUERY => {
            let mut op: PhysdevIrqStatusQuery = guest::read(arg)?;
            if op.irq >= GSIS {
                return Err(Error::Invalid);
            }
            op.flags = 0;
            guest::write(arg, &op)?;
            Ok(0)
        }
        PHYSDEVOP_PIRQ_EOI_GMFN_V1 | PHYSDEVOP_PIRQ_EOI_GMFN_V2 => Err(Error::NotImplemented),
        PHYSDEVOP_APIC_READ => {
            let _: PhysdevApic = guest::read(arg)?;
            call.require_privilege()?;
            Err(Error::Invalid)
        }
        PHYSDEVOP_APIC_WRITE => {
            let _: PhysdevApic = guest::read(arg)?;
            call.require_privilege()?;
            Err(Error::Invalid)
        }
        PHYSDEVOP_ALLOC_IRQ_VECTOR => {
            let mut op: PhysdevIrq = guest::read(arg)?;
            call.require_privilege()?;
            if op.irq >= GSIS {
                return Err(Error::Invalid);
            }
            op.vector = op.irq;
            guest::write(arg, &op)?;
            Ok(0)
        }
        // A Dom0 sets up the interrupts of firmware tables that it does not see.
        PHYSDEVOP_SETUP_GSI => {
            let _: PhysdevSetupGsi = guest::read(arg)?;
            call.require_privilege()?;
            Err(Error::Invalid)
        }
        PHYSDEVOP_MAP_PIRQ | PHYSDEVOP_UNMAP_PIRQ | PHYSDEVOP_GET_FREE_PIRQ => Err(Error::Invalid),
        PHYSDEVOP_MANAGE_PCI_ADD
        | PHYSDEVOP_MANAGE_PCI_REMOVE
        | PHYSDEVOP_MANAGE_PCI_ADD_EXT
        | PHYSDEVOP_PCI_DEVICE_ADD
        | PHYSDEVOP_PCI_DEVICE_REMOVE
        | PHYSDEVOP_RESTORE_MSI
        | PHYSDEVOP_RESTORE_MSI_EXT
        | PHYSDEVOP_PREPARE_MSIX
        | PHYSDEVOP_RELEASE_MSIX
        | PHYSDEVOP_PCI_MMCFG_RESERVED => {
            call.require_privilege()?;
            Err(Error::NotThere)
        }
        PHYSDEVOP_DBGP_OP => {
            call.require_privilege()?;
            Err(Error::NotImplemented)
        }
        _ => Err(Error::NotImplemented),
    }
}
