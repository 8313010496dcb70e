//! Machine checks: the first layer reports broken memory.

use crate::arch::registers::Registers;
use crate::arch::{entry, panic};

/// IA32_MCG_CAP: how many banks there are.
const MCG_CAP: u32 = 0x179;
/// IA32_MCG_STATUS.
const MCG_STATUS: u32 = 0x17a;
/// IA32_MC0_STATUS; banks are 4 apart.
const MC0_STATUS: u32 = 0x401;
/// IA32_MC0_ADDR.
const MC0_ADDR: u32 = 0x402;
/// The bank's record is valid.
const STATUS_VALID: u64 = 1 << 63;
/// The error was not corrected.
const STATUS_UNCORRECTED: u64 = 1 << 61;
/// The state of the processor is lost.
const STATUS_CONTEXT_CORRUPT: u64 = 1 << 57;

/// Handles a machine check: what was corrected is logged, anything else is the
/// end of the machine, as nobody can tell whose memory is bad.
pub fn handle(regs: &mut Registers) {
    let banks = entry::rdmsr_safe(MCG_CAP).unwrap_or(0) & 0xff;
    let mut fatal = banks == 0;
    for bank in 0..banks as u32 {
        let Some(status) = entry::rdmsr_safe(MC0_STATUS + 4 * bank) else {
            continue;
        };
        if status & STATUS_VALID == 0 {
            continue;
        }
        let address = entry::rdmsr_safe(MC0_ADDR + 4 * bank).unwrap_or(0);
        log::error!("machine check: bank {bank} status {status:#x} address {address:#x}");
        fatal |= status & (STATUS_UNCORRECTED | STATUS_CONTEXT_CORRUPT) != 0;
        // SAFETY: clears the record that was just read.
        let _ = unsafe { entry::wrmsr_safe(MC0_STATUS + 4 * bank, 0) };
    }
    if fatal {
        panic::fatal(regs, "machine check");
    }
    // SAFETY: the machine check is dealt with.
    let _ = unsafe { entry::wrmsr_safe(MCG_STATUS, 0) };
}
