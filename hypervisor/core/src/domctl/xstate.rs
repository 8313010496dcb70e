//! The saved FPU state of a vCPU, as `XEN_DOMCTL_getvcpuextstate` gives it: XCR0, all
//! components that it ever had, and an area as XSAVE writes it, not compacted.

use crate::cpuid::CpuidPolicy;
use crate::error::{Error, Result};

/// Bytes before the area.
pub const HEADER_SIZE: usize = 16;
/// Bytes of the legacy region and of the header of an area (SDM volume 1, 13.4).
const AREA_MIN: usize = 576;
/// Where the header is in an area.
const AREA_HEADER: usize = 512;

/// A state that was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedState<'a> {
    /// XCR0.
    pub xcr0: u64,
    /// All components that were ever in XCR0.
    pub accumulated: u64,
    /// The area; none if there is nothing to be restored.
    pub area: Option<&'a [u8]>,
}

impl<'a> SavedState<'a> {
    /// Bytes of a state with these components. `machine` is a policy with all components
    /// that there are.
    pub fn size(machine: &CpuidPolicy, components: u64) -> usize {
        match components {
            0 => HEADER_SIZE,
            _ => HEADER_SIZE + machine.xsave_size(components, false) as usize,
        }
    }

    /// Takes a state apart that a toolstack wants to give to a vCPU whose domain has the
    /// `policy`.
    ///
    /// # Errors
    /// `Invalid` for a size that does not fit and for components that the domain does not
    /// have, `NotSupported` for a compacted area or one with reserved bits.
    pub fn parse(bytes: &'a [u8], machine: &CpuidPolicy, policy: &CpuidPolicy) -> Result<Self> {
        let word = |at: usize| {
            bytes
                .get(at..at + 8)
                .and_then(|word| word.try_into().ok())
                .map(u64::from_le_bytes)
                .ok_or(Error::Invalid)
        };
        let (xcr0, accumulated) = (word(0)?, word(8)?);
        let area = bytes.get(HEADER_SIZE..).ok_or(Error::Invalid)?;
        if accumulated == 0 {
            // A CPU without XSAVE.
            if xcr0 != 0 {
                return Err(Error::Invalid);
            }
        } else {
            if area.len() < AREA_MIN {
                return Err(Error::Invalid);
            }
            let header = |n: usize| word(HEADER_SIZE + AREA_HEADER + 8 * n);
            if header(0)? & !accumulated != 0
                || xcr0 & !accumulated != 0
                || !policy.xcr0_valid(xcr0)
                || !policy.xcr0_valid(accumulated)
            {
                return Err(Error::Invalid);
            }
            for n in 1..8 {
                if header(n)? != 0 {
                    return Err(Error::NotSupported);
                }
            }
        }
        let area = match area.len() {
            0 => None,
            _ if bytes.len() != Self::size(machine, accumulated) => return Err(Error::Invalid),
            _ => Some(area),
        };
        Ok(Self {
            xcr0,
            accumulated,
            area,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::{Hardware, Leaf};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// A CPU with x87, SSE and AVX state.
    fn cpu(leaf: u32, subleaf: u32) -> Leaf {
        match (leaf, subleaf) {
            (0, _) => [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
            (1, _) => [0x0005_06e3, 0, 0x1c00_0000, 0x0781_abfd],
            (0xd, 0) => [7, 832, 832, 0],
            (0xd, 2) => [256, 576, 0, 0],
            _ => [0; 4],
        }
    }

    fn policy() -> CpuidPolicy {
        CpuidPolicy::for_pv(cpu, &Hardware::default(), false, &[], &[])
    }

    fn state(xcr0: u64, accumulated: u64, area: usize, in_use: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_SIZE + area];
        bytes[..8].copy_from_slice(&xcr0.to_le_bytes());
        bytes[8..16].copy_from_slice(&accumulated.to_le_bytes());
        if let Some(header) = bytes.get_mut(HEADER_SIZE + AREA_HEADER..HEADER_SIZE + AREA_MIN) {
            header[..8].copy_from_slice(&in_use.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn sizes() {
        let policy = policy();
        assert_eq!(policy.xcr0_max(), 7);
        assert_eq!(SavedState::size(&policy, 0), 16);
        assert_eq!(SavedState::size(&policy, 3), 16 + 576);
        assert_eq!(SavedState::size(&policy, 7), 16 + 832);
    }

    #[test]
    fn good_states() {
        let policy = policy();
        for (xcr0, accumulated, area) in [(1, 3, 576), (3, 3, 576), (3, 7, 832), (7, 7, 832)] {
            let bytes = state(xcr0, accumulated, area, accumulated);
            let parsed = SavedState::parse(&bytes, &policy, &policy).unwrap();
            assert_eq!((parsed.xcr0, parsed.accumulated), (xcr0, accumulated));
            assert_eq!(parsed.area.map(<[u8]>::len), Some(area));
        }
        let bytes = state(0, 0, 0, 0);
        assert_eq!(
            SavedState::parse(&bytes, &policy, &policy).unwrap().area,
            None
        );
    }

    #[test]
    fn bad_states() {
        let policy = policy();
        let refused = |bytes: Vec<u8>| SavedState::parse(&bytes, &policy, &policy).unwrap_err();
        // Components that are not in what was ever enabled, or not in the policy.
        assert_eq!(refused(state(7, 3, 576, 3)), Error::Invalid);
        assert_eq!(refused(state(3, 3, 576, 7)), Error::Invalid);
        assert_eq!(refused(state(0xf, 0xf, 832, 3)), Error::Invalid);
        assert_eq!(refused(state(5, 7, 832, 3)), Error::Invalid);
        assert_eq!(refused(state(2, 3, 576, 3)), Error::Invalid);
        assert_eq!(refused(state(1, 0, 0, 0)), Error::Invalid);
        // Sizes that do not fit.
        assert_eq!(refused(state(3, 3, 832, 3)), Error::Invalid);
        assert_eq!(refused(state(7, 7, 576, 3)), Error::Invalid);
        assert_eq!(refused(state(3, 3, 0, 0)), Error::Invalid);
        assert_eq!(refused(state(3, 3, 575, 0)), Error::Invalid);
        assert_eq!(refused(vec![0; 15]), Error::Invalid);
        // Compacted.
        let mut bytes = state(3, 3, 576, 3);
        bytes[HEADER_SIZE + AREA_HEADER + 15] = 0x80;
        assert_eq!(refused(bytes), Error::NotSupported);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_the_domains(
            xcr0 in 0u64..16, accumulated in 0u64..16, in_use in 0u64..16,
            area in prop_oneof![Just(0usize), Just(576), Just(832), 0usize..900],
        ) {
            let policy = policy();
            let bytes = state(xcr0, accumulated, area, in_use);
            if let Ok(state) = SavedState::parse(&bytes, &policy, &policy) {
                prop_assert!(state.accumulated == 0 || policy.xcr0_valid(state.accumulated));
                prop_assert_eq!(state.xcr0 & !state.accumulated, 0);
                let wanted = if accumulated & 4 != 0 { 832 } else { 576 };
                prop_assert!(state.area.is_none_or(|area| area.len() == wanted));
            }
        }
    }
}
