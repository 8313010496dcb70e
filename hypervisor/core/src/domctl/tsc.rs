//! The clock rate of a domain (`XEN_DOMCTL_settscinfo`, `XEN_DOMCTL_gettscinfo`).
//!
//! Guests read the CPU's own TSC: RDTSC is not emulated. A kernel that keeps time by the
//! records in `vcpu_info` does not notice another rate after it was restored elsewhere.

use crate::error::{Error, Result};

/// `TSC_MODE_DEFAULT`
const DEFAULT: u32 = 0;
/// `TSC_MODE_ALWAYS_EMULATE`
const ALWAYS_EMULATE: u32 = 1;
/// `TSC_MODE_NEVER_EMULATE`
const NEVER_EMULATE: u32 = 2;

/// What was chosen for a domain.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tsc {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// How often it was set: once at the start, and once for each restoring.
    pub incarnation: u32,
}

/// What a toolstack is told, to carry it to another machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscInfo {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// The rate, in kHz.
    pub khz: u32,
    /// See [`Tsc::incarnation`].
    pub incarnation: u32,
    /// The guest's time, in ns.
    pub elapsed: u64,
}

impl Tsc {
    /// Another choice. The rate that a domain had elsewhere is accepted, and not kept.
    ///
    /// # Errors
    /// `NotSupported` for emulation, `Invalid` for a mode that there is not.
    pub fn set(&mut self, mode: u32, incarnation: u32) -> Result<()> {
        match mode {
            DEFAULT | NEVER_EMULATE => {}
            ALWAYS_EMULATE => return Err(Error::NotSupported),
            _ => return Err(Error::Invalid),
        }
        *self = Self {
            mode,
            incarnation: incarnation.wrapping_add(1),
        };
        Ok(())
    }

    /// What to tell; `now` is the system time in ns, `khz` the rate of the machine's TSC.
    pub fn info(&self, now: u64, khz: u32) -> TscInfo {
        let told = self.mode != NEVER_EMULATE;
        TscInfo {
            mode: self.mode,
            khz: if told { khz } else { 0 },
            incarnation: self.incarnation,
            elapsed: if told { now } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let mut tsc = Tsc::default();
        assert_eq!(tsc.set(0, 0), Ok(()));
        assert_eq!(tsc.incarnation, 1);
        let info = tsc.info(5, 1000);
        assert_eq!((info.khz, info.elapsed), (1000, 5));
        assert_eq!(tsc.set(1, 7), Err(Error::NotSupported));
        assert_eq!(tsc.set(3, 7), Err(Error::Invalid));
        assert_eq!(tsc.incarnation, 1);
        assert_eq!(tsc.set(2, info.incarnation), Ok(()));
        assert_eq!(
            tsc.info(5, 1000),
            TscInfo {
                mode: 2,
                khz: 0,
                incarnation: 2,
                elapsed: 0
            }
        );
    }
}
