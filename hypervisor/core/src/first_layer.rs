//! What Overcast runs on: the hypervisor underneath, by what CPUID says from 0x40000000 on.
//!
//! A hypervisor may show more than one interface: KVM that plays Hyper-V (or Xen) shows that
//! at 0x40000000 and its own at 0x40000100. What it really is decides which devices there
//! are, so its own signature goes before the one that it plays.

use core::fmt;

use crate::cpuid::Leaf;

/// Where the leaves of hypervisors are, by convention, and how far apart.
const FIRST: u32 = 0x4000_0000;
const STEP: u32 = 0x100;
/// How many places are looked at, as Linux and Xen do.
const PLACES: u32 = 0x100;
/// The most interfaces that are kept.
const MOST: usize = 4;

/// A kind of first layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// No hypervisor.
    Bare,
    /// KVM, or what behaves so.
    Kvm,
    /// QEMU's emulation of CPUs.
    Tcg,
    /// Xen: an HVM or PVH guest of it.
    Xen,
    /// Hyper-V, Azure.
    HyperV,
    /// Another one.
    Other,
}

impl Kind {
    fn of(signature: &[u8; 12]) -> Self {
        match signature {
            b"KVMKVMKVM\0\0\0" => Self::Kvm,
            b"TCGTCGTCGTCG" => Self::Tcg,
            b"XenVMMXenVMM" => Self::Xen,
            b"Microsoft Hv" => Self::HyperV,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "no hypervisor",
            Self::Kvm => "KVM",
            Self::Tcg => "QEMU (TCG)",
            Self::Xen => "Xen",
            Self::HyperV => "Hyper-V",
            Self::Other => "an unknown hypervisor",
        }
    }
}

/// An interface that the first layer shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// What it is.
    pub kind: Kind,
    /// Its first CPUID leaf.
    pub leaf: u32,
    /// Its last CPUID leaf.
    pub last: u32,
    /// What it says that it is.
    pub signature: [u8; 12],
}

/// What is underneath.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstLayer {
    /// What it really is.
    pub kind: Kind,
    interfaces: [Option<Interface>; MOST],
}

impl FirstLayer {
    /// Asks CPUID (leaf and subleaf to EAX, EBX, ECX, EDX).
    pub fn detect(cpuid: impl Fn(u32, u32) -> Leaf) -> Self {
        const HYPERVISOR: u32 = 1 << 31;
        let mut found = Self {
            kind: Kind::Bare,
            interfaces: [None; MOST],
        };
        if cpuid(1, 0)[2] & HYPERVISOR == 0 {
            return found;
        }
        let mut slots = found.interfaces.iter_mut();
        for place in 0..PLACES {
            let leaf = FIRST + place * STEP;
            let [last, ebx, ecx, edx] = cpuid(leaf, 0);
            // KVM's first versions said 0 for the last leaf.
            if !(leaf..leaf + STEP).contains(&last) && last != 0 {
                continue;
            }
            let mut signature = [0; 12];
            for (bytes, word) in signature.chunks_exact_mut(4).zip([ebx, ecx, edx]) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            let kind = Kind::of(&signature);
            // A CPU answers leaves that it does not know as it likes; the first is
            // taken whatever it says.
            if kind == Kind::Other && (place != 0 || signature == [0; 12]) {
                continue;
            }
            let Some(slot) = slots.next() else {
                break;
            };
            *slot = Some(Interface {
                kind,
                leaf,
                last: last.max(leaf),
                signature,
            });
        }
        found.kind = [Kind::Kvm, Kind::Xen, Kind::HyperV, Kind::Tcg]
            .into_iter()
            .find(|&kind| found.interface(kind).is_some())
            .unwrap_or(Kind::Other);
        found
    }

    /// An interface that it shows, if it does.
    pub fn interface(&self, kind: Kind) -> Option<&Interface> {
        self.interfaces().find(|one| one.kind == kind)
    }

    /// All interfaces that it shows.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().flatten()
    }
}

impl fmt::Display for FirstLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        for (n, one) in self.interfaces().enumerate() {
            f.write_str(if n == 0 { " (" } else { ", " })?;
            f.write_str("\"")?;
            for &byte in one.signature.iter().take_while(|&&byte| byte != 0) {
                let shown = if byte.is_ascii_graphic() || byte == b' ' {
                    char::from(byte)
                } else {
                    '?'
                };
                write!(f, "{shown}")?;
            }
            write!(f, "\" at {:#x}", one.leaf)?;
        }
        if self.interfaces().next().is_some() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn word(signature: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(signature[at..at + 4].try_into().unwrap())
    }

    fn machine(shown: &'static [(u32, u32, &'static [u8; 12])]) -> FirstLayer {
        FirstLayer::detect(move |leaf, _| {
            if leaf == 1 {
                let bit = if shown.is_empty() { 0 } else { 1 << 31 };
                return [0, 0, bit, 0];
            }
            shown.iter().find(|(at, ..)| *at == leaf).map_or(
                [7, 7, 7, 7],
                |(_, last, signature)| {
                    [
                        *last,
                        word(*signature, 0),
                        word(*signature, 4),
                        word(*signature, 8),
                    ]
                },
            )
        })
    }

    #[test]
    fn each_kind_is_known() {
        assert_eq!(machine(&[]).kind, Kind::Bare);
        assert_eq!(format!("{}", machine(&[])), "no hypervisor");
        let tcg = machine(&[(0x4000_0000, 0x4000_0001, b"TCGTCGTCGTCG")]);
        assert_eq!(tcg.kind, Kind::Tcg);
        assert_eq!(
            format!("{tcg}"),
            "QEMU (TCG) (\"TCGTCGTCGTCG\" at 0x40000000)"
        );
        let old_kvm = machine(&[(0x4000_0000, 0, b"KVMKVMKVM\0\0\0")]);
        assert_eq!(old_kvm.kind, Kind::Kvm);
        let xen = machine(&[(0x4000_0000, 0x4000_0005, b"XenVMMXenVMM")]);
        assert_eq!(xen.kind, Kind::Xen);
        let azure = machine(&[(0x4000_0000, 0x4000_000c, b"Microsoft Hv")]);
        assert_eq!(azure.kind, Kind::HyperV);
        let other = machine(&[(0x4000_0000, 0x4000_0010, b"VMware\xffMware")]);
        assert_eq!(other.kind, Kind::Other);
        assert_eq!(
            format!("{other}"),
            "an unknown hypervisor (\"VMware?Mware\" at 0x40000000)"
        );
    }

    #[test]
    fn what_plays_another_is_itself() {
        let kvm = machine(&[
            (0x4000_0000, 0x4000_000c, b"Microsoft Hv"),
            (0x4000_0100, 0x4000_0101, b"KVMKVMKVM\0\0\0"),
        ]);
        assert_eq!(kvm.kind, Kind::Kvm);
        assert_eq!(kvm.interface(Kind::HyperV).unwrap().leaf, 0x4000_0000);
        assert_eq!(kvm.interface(Kind::Kvm).unwrap().leaf, 0x4000_0100);
        // Real Xen with Hyper-V's interface for Windows.
        let xen = machine(&[
            (0x4000_0000, 0x4000_0006, b"Microsoft Hv"),
            (0x4000_0100, 0x4000_0105, b"XenVMMXenVMM"),
        ]);
        assert_eq!(xen.kind, Kind::Xen);
    }

    #[test]
    fn a_cpu_that_answers_every_leaf_alike_ends_it() {
        let found = FirstLayer::detect(|leaf, _| match leaf {
            1 => [0, 0, u32::MAX, 0],
            _ => [
                leaf,
                word(b"XenVMMXenVMM", 0),
                word(b"XenVMMXenVMM", 4),
                word(b"XenVMMXenVMM", 8),
            ],
        });
        assert_eq!(found.interfaces().count(), MOST);
    }
}
