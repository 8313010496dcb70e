//! Which thread of which core in which socket a CPU is, as its APIC id says.

use crate::cpuid::Leaf;

/// How the bits of an APIC id are divided: threads lowest, then cores, then sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    /// Bits that number the threads of a core.
    thread_bits: u32,
    /// Bits that number the threads of a socket.
    socket_shift: u32,
}

/// Where a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The socket.
    pub socket: u32,
    /// The core in the socket.
    pub core: u32,
    /// The thread of the core.
    pub thread: u32,
}

/// Leaf 0xb: the kinds of levels, in ECX bits 8 to 15.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;
/// Levels that leaf 0xb may have, at most.
const MAX_LEVELS: u32 = 8;
/// Leaf 1, EDX: the count of logical CPUs in EBX is valid.
const HTT: u32 = 1 << 28;

fn bits_for(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

impl Topology {
    /// What CPUID says (SDM volume 3, 9.9; APM volume 3, appendix E): by leaf
    /// 0xb, or for CPUs without it by leaves 1 and 4, or 1 and 0x80000008. `cpuid`
    /// executes CPUID with a leaf and a subleaf.
    pub fn from_cpuid(cpuid: impl Fn(u32, u32) -> Leaf) -> Self {
        let max = cpuid(0, 0)[0];
        if max >= 0xb && cpuid(0xb, 0)[1] & 0xffff != 0 {
            let mut topology = Self::default();
            for level in 0..MAX_LEVELS {
                let [shift, _, kind, _] = cpuid(0xb, level);
                let shift = shift & 0x1f;
                match kind >> 8 & 0xff {
                    LEVEL_THREAD => topology.thread_bits = shift,
                    LEVEL_CORE => topology.socket_shift = shift,
                    _ => break,
                }
            }
            topology.socket_shift = topology.socket_shift.max(topology.thread_bits);
            return topology;
        }
        let leaf1 = cpuid(1, 0);
        if max < 1 || leaf1[3] & HTT == 0 {
            return Self::default();
        }
        let cpus = leaf1[1] >> 16 & 0xff;
        let extended = cpuid(0x8000_0000, 0)[0];
        let has_core_count = extended >> 16 == 0x8000 && extended >= 0x8000_0008;
        let sizes = if has_core_count {
            cpuid(0x8000_0008, 0)[2]
        } else {
            0
        };
        let cores = match (max >= 4).then(|| cpuid(4, 0)[0]) {
            // Intel: cores of the socket, less 1.
            Some(caches) if caches & 0x1f != 0 => (caches >> 26) + 1,
            // AMD: the same elsewhere, and there are no threads where leaf 0xb is not.
            _ => (sizes & 0xff) + 1,
        };
        let socket_shift = match sizes >> 12 & 0xf {
            0 => bits_for(cpus),
            bits => bits,
        };
        Self {
            thread_bits: socket_shift.saturating_sub(bits_for(cores)),
            socket_shift,
        }
    }

    /// Where the CPU with an APIC id is.
    pub fn place(&self, apic_id: u32) -> Place {
        let low = |bits: u32| 1u32.checked_shl(bits).map_or(u32::MAX, |end| end - 1);
        Place {
            socket: apic_id.checked_shr(self.socket_shift).unwrap_or(0),
            core: (apic_id & low(self.socket_shift)) >> self.thread_bits.min(31),
            thread: apic_id & low(self.thread_bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(socket: u32, core: u32, thread: u32) -> Place {
        Place {
            socket,
            core,
            thread,
        }
    }

    #[test]
    fn leaf_0xb() {
        let topology = Topology::from_cpuid(|leaf, subleaf| match (leaf, subleaf) {
            (0, _) => [0xd, 0, 0, 0],
            (0xb, 0) => [1, 2, 1 << 8, 0],
            (0xb, 1) => [4, 12, 2 << 8 | 1, 0],
            _ => [0; 4],
        });
        assert_eq!(topology.place(0x1b), place(1, 5, 1));
    }

    #[test]
    fn intel_without_leaf_0xb() {
        let topology = Topology::from_cpuid(|leaf, _| match leaf {
            0 => [4, 0, 0, 0],
            1 => [0, 8 << 16, 0, HTT],
            4 => [3 << 26 | 1, 0, 0, 0],
            _ => [0; 4],
        });
        assert_eq!(topology.place(0xb), place(1, 1, 1));
    }

    #[test]
    fn amd_without_leaf_0xb() {
        let topology = Topology::from_cpuid(|leaf, _| match leaf {
            0 => [1, 0, 0, 0],
            1 => [0, 6 << 16, 0, HTT],
            0x8000_0000 => [0x8000_001f, 0, 0, 0],
            0x8000_0008 => [0, 0, 3 << 12 | 5, 0],
            _ => [0; 4],
        });
        assert_eq!(topology.place(0xb), place(1, 3, 0));
    }

    #[test]
    fn one_cpu_a_socket() {
        let topology = Topology::from_cpuid(|_, _| [0; 4]);
        assert_eq!(topology.place(3), place(3, 0, 0));
    }
}
