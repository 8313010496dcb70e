//! The hypervisor's log, and its debug keys.

use overcast_core::error::Result;
use xen_abi::sysctl::{SysctlDebugKeys, SysctlReadconsole};

use super::super::ctl;
use crate::arch::console;
use crate::guest;

/// Bytes that are copied at once.
const CHUNK: usize = 512;

/// `XEN_SYSCTL_readconsole`: what is in the ring, or what came since an index.
/// It is cleared only once all was written to the guest.
pub fn read(u: &mut ctl::Arguments) -> Result<()> {
    let mut args: SysctlReadconsole = ctl::get(u)?;
    let mut chunk = [0; CHUNK];
    let mut done = 0u32;
    let (_, mut index) = console::read_ring(&mut [], args.index, args.incremental != 0, false);
    while done < args.count {
        let wanted = ((args.count - done) as usize).min(CHUNK);
        let Some(room) = chunk.get_mut(..wanted) else {
            break;
        };
        let (got, next) = console::read_ring(room, index, true, false);
        let Some(text) = room.get(..got).filter(|text| !text.is_empty()) else {
            break;
        };
        guest::write_bytes(guest::item::<u8>(args.buffer, done.into())?, text)?;
        done += got as u32;
        index = next;
    }
    if args.clear != 0 {
        console::read_ring(&mut [], index, true, true);
    }
    args.count = done;
    args.index = index;
    ctl::put(u, &args);
    Ok(())
}

/// `XEN_SYSCTL_debug_keys`.
pub fn press(u: &ctl::Arguments) -> Result<()> {
    let args: SysctlDebugKeys = ctl::get(u)?;
    for index in 0..args.nr_keys {
        let key: u8 = guest::read_item(args.keys, index.into())?;
        console::press(key);
    }
    Ok(())
}
