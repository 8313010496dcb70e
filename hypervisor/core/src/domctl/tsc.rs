//! The TSC of a domain (`XEN_DOMCTL_settscinfo`, `XEN_DOMCTL_gettscinfo`; public header
//! arch-x86/xen.h and `docs/man/xen-tscmode.7` of Xen).
//!
//! | mode | what RDTSC gives |
//! |---|---|
//! | default | the CPU's TSC; once the domain was moved to a machine whose TSC has another rate, an emulated one of the rate and with the value that it had |
//! | always emulate | an emulated one, at the rate of the machine where the domain began |
//! | never emulate | the CPU's, wherever it is |
//!
//! A kernel that keeps time by the records in `vcpu_info` needs none of that: the records
//! always fit what RDTSC gives. Programs that read the TSC by themselves do.
//!
//! Xen also emulates by default where it does not know the machine's TSC to be reliable. Here
//! that is not done: each look at the time would cost a trap, on most first layers.
//!
//! # Invariants
//!
//! - An emulated TSC follows the system time: it never goes back, and goes at its rate.

use crate::clock::TscScale;
use crate::error::{Error, Result};

/// `TSC_MODE_DEFAULT`
const DEFAULT: u32 = 0;
/// `TSC_MODE_ALWAYS_EMULATE`
const ALWAYS_EMULATE: u32 = 1;
/// `TSC_MODE_NEVER_EMULATE`
const NEVER_EMULATE: u32 = 2;
/// Rates are the same if they differ by less than one part in so many: what measuring a rate
/// on a busy first layer comes to. A kernel is told the true one.
const SAME: u32 = 1000;
/// kHz in ticks a nanosecond.
const KHZ_PER_GHZ: u128 = 1_000_000;

/// The machine's clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// Rate of the TSC, kHz.
    pub khz: u32,
    /// The TSC.
    pub tsc: u64,
    /// System time, ns.
    pub now: u64,
}

/// A TSC that is emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emulated {
    /// Its rate, in kHz; not 0.
    pub khz: u32,
    /// Its ticks in ns.
    pub scale: TscScale,
    /// The system time at which it was 0, ns; beyond 2^63 for times before the machine's start.
    pub start: u64,
}

impl Emulated {
    /// Its value at a system time.
    pub fn at(&self, system_time: u64) -> u64 {
        let ns = system_time.wrapping_sub(self.start);
        (u128::from(ns) * u128::from(self.khz) / KHZ_PER_GHZ) as u64
    }
}

/// What was chosen for a domain.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tsc {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// How often it was set: once at the start, and once for each restoring.
    pub incarnation: u32,
    /// What RDTSC gives; `None` for the CPU's.
    pub emulated: Option<Emulated>,
}

/// What a toolstack says and is told, to carry it to another machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscInfo {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// The rate, in kHz; 0 for the machine's.
    pub khz: u32,
    /// See [`Tsc::incarnation`].
    pub incarnation: u32,
    /// The TSC's value, in ns.
    pub elapsed: u64,
}

impl Tsc {
    /// Another choice, for a domain that had the rate and the value in `info`.
    ///
    /// # Errors
    /// `Invalid` for a mode that there is not.
    pub fn set(&mut self, info: &TscInfo, clocks: &Clocks) -> Result<()> {
        let khz = match info.khz {
            0 => clocks.khz,
            khz => khz,
        };
        let emulate = match info.mode {
            DEFAULT => u64::from(khz.abs_diff(clocks.khz)) * u64::from(SAME) > clocks.khz.into(),
            ALWAYS_EMULATE => true,
            NEVER_EMULATE => false,
            _ => return Err(Error::Invalid),
        };
        let scale = TscScale::from_hz(u64::from(khz) * 1000);
        *self = Self {
            mode: info.mode,
            incarnation: info.incarnation.wrapping_add(1),
            emulated: scale.filter(|_| emulate).map(|scale| Emulated {
                khz,
                scale,
                start: clocks.now.wrapping_sub(info.elapsed),
            }),
        };
        Ok(())
    }

    /// What to tell.
    pub fn info(&self, clocks: &Clocks) -> TscInfo {
        let (khz, elapsed) = match (self.mode, &self.emulated) {
            (NEVER_EMULATE, _) => (0, 0),
            (_, Some(emulated)) => {
                let elapsed = clocks.now.wrapping_sub(emulated.start);
                // As Xen: no time before its start.
                let elapsed = if elapsed > i64::MAX as u64 {
                    0
                } else {
                    elapsed
                };
                (emulated.khz, elapsed)
            }
            (_, None) => {
                let ns = u128::from(clocks.tsc) * KHZ_PER_GHZ / u128::from(clocks.khz.max(1));
                (clocks.khz, ns as u64)
            }
        };
        TscInfo {
            mode: self.mode,
            khz,
            incarnation: self.incarnation,
            elapsed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine of a rate that has run for so long; its TSC did not begin with 0.
    fn clocks(khz: u32, now: u64) -> Clocks {
        let tsc = (u128::from(now) * u128::from(khz) / KHZ_PER_GHZ) as u64;
        Clocks {
            khz,
            tsc: tsc + 12_345_678,
            now,
        }
    }

    fn info(mode: u32, khz: u32, incarnation: u32, elapsed: u64) -> TscInfo {
        TscInfo {
            mode,
            khz,
            incarnation,
            elapsed,
        }
    }

    #[test]
    fn modes() {
        let here = clocks(2_500_000, 1 << 40);
        let mut tsc = Tsc::default();
        assert_eq!(tsc.set(&info(0, 0, 0, 0), &here), Ok(()));
        assert_eq!((tsc.incarnation, tsc.emulated), (1, None));
        assert_eq!(tsc.info(&here).khz, 2_500_000);
        assert_eq!(tsc.set(&info(3, 0, 7, 0), &here), Err(Error::Invalid));
        assert_eq!((tsc.mode, tsc.incarnation), (0, 1));
        assert_eq!(tsc.set(&info(2, 9, tsc.incarnation, 9), &here), Ok(()));
        assert_eq!(tsc.info(&here), info(2, 0, 2, 0));
        assert_eq!(tsc.set(&info(1, 0, 0, 0), &here), Ok(()));
        let emulated = tsc.emulated.unwrap();
        assert_eq!((emulated.khz, emulated.at(here.now)), (2_500_000, 0));
        assert_eq!(emulated.at(here.now + 1000), 2500);
        let later = clocks(2_500_000, here.now + 77);
        assert_eq!(tsc.info(&later), info(1, 2_500_000, 1, 77));
    }

    #[test]
    fn the_same_rate_is_not_emulated() {
        let mut tsc = Tsc::default();
        for (khz, emulated) in [
            (2_500_000, false),
            (2_501_000, false),
            (2_498_000, false),
            (2_504_000, true),
            (2_000_000, true),
            (u32::MAX, true),
            (1, true),
        ] {
            tsc.set(&info(0, khz, 1, 5), &clocks(2_500_000, 99))
                .unwrap();
            assert_eq!(tsc.emulated.is_some(), emulated, "{khz}");
        }
    }

    #[test]
    fn a_saved_value_beyond_all_bounds() {
        let here = clocks(1000, 5);
        let mut tsc = Tsc::default();
        for elapsed in [0, 5, 6, u64::MAX, 1 << 63] {
            tsc.set(&info(1, u32::MAX, u32::MAX, elapsed), &here)
                .unwrap();
            let _ = (tsc.info(&here), tsc.emulated.unwrap().at(u64::MAX));
        }
    }

    proptest! {
        /// From one machine to others: the TSC that programs read goes on from where it was and
        /// keeps its rate, and the records that the kernel reads give the system time.
        #[test]
        fn moves_keep_the_clock(
            rates in proptest::collection::vec(100_000u32..6_000_000, 2..5),
            starts in proptest::collection::vec(0u64..1 << 50, 5),
            stays in proptest::collection::vec(1u64..1 << 45, 5),
            mode in 0u32..2,
        ) {
            let mut tsc = Tsc::default();
            let mut told = info(mode, 0, 0, 0);
            let mut before: Option<(u64, u32)> = None;
            for (&khz, (&start, &stay)) in rates.iter().zip(starts.iter().zip(&stays)) {
                let arrival = clocks(khz, start);
                tsc.set(&told, &arrival).unwrap();
                if let (Some((value, rate)), Some(emulated)) = (before, tsc.emulated) {
                    prop_assert_eq!(emulated.khz, rate);
                    // It goes on within a nanosecond's ticks.
                    let now = emulated.at(arrival.now);
                    let tick = u64::from(rate) / 1_000_000 + 2;
                    prop_assert!(value.abs_diff(now) <= tick, "{value} {now}");
                }
                let departure = clocks(khz, start + stay);
                if let Some(emulated) = tsc.emulated {
                    let ticks = emulated.at(departure.now) - emulated.at(arrival.now);
                    let ns = emulated.scale.to_ns(ticks);
                    prop_assert!(ns.abs_diff(stay) <= (stay >> 30) + 20, "{ns} {stay}");
                    prop_assert!(emulated.at(departure.now) >= emulated.at(departure.now - 1));
                    prop_assert_eq!(tsc.info(&departure).khz, emulated.khz);
                }
                told = tsc.info(&departure);
                before = Some(match tsc.emulated {
                    Some(emulated) => (emulated.at(departure.now), emulated.khz),
                    None => (departure.tsc, khz),
                });
            }
            prop_assert_eq!(tsc.incarnation as usize, rates.len());
        }
    }
}
