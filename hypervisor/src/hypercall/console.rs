//! `console_io` (xen.h): Dom0's way to the hypervisor's console.

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};
use xen_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use super::Call;
use crate::arch::console;
use crate::guest;

/// Bytes that are copied at once.
const CHUNK: usize = 256;

/// `HYPERVISOR_console_io(cmd, count, buffer)`: ENOSYS for an unknown command,
/// EPERM for reading by a domain without privilege, E2BIG for a negative count.
pub fn console_io(call: &mut Call<'_>) -> Result<i64> {
    let count = call.args[1] as u32;
    let command = call.args[0] as u32;
    if !matches!(command, CONSOLEIO_WRITE | CONSOLEIO_READ) {
        return Err(Error::NotImplemented);
    }
    call.require_privilege()?;
    if count > i32::MAX as u32 {
        return Err(Error::TooBig);
    }
    let buffer = call.address(2);
    match command {
        CONSOLEIO_WRITE => write(call, buffer, count),
        _ => {
            let mut bytes = [0; CHUNK];
            let wanted = (count as usize).min(CHUNK);
            let got = console::read_dom0(&mut bytes[..wanted]);
            guest::write_bytes(buffer, &bytes[..got])?;
            Ok(got as i64)
        }
    }
}

fn write(call: &mut Call<'_>, buffer: GuestVirtual, count: u32) -> Result<i64> {
    let mut at = buffer;
    let mut left = count as usize;
    let mut bytes = [0; CHUNK];
    while left > 0 {
        let now = left.min(CHUNK);
        guest::read_bytes(at, &mut bytes[..now])?;
        console::write_dom0(&bytes[..now]);
        left -= now;
        at = GuestVirtual(at.0.wrapping_add(now as u64));
        if left > 0 && call.preempt() {
            call.args[1] = left as u64;
            call.args[2] = at.0;
            return Err(Error::Restart);
        }
    }
    Ok(0)
}
