//! Address and frame-number spaces, one newtype each. Nothing converts silently.

/// log2 of the size of a page.
pub const PAGE_SHIFT: u32 = 12;
/// Size of a page in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// Entries in a page table of any level.
pub const ENTRIES_PER_TABLE: usize = 512;
/// Bits of a physical address that a page-table entry can hold.
pub const PHYSICAL_ADDRESS_BITS: u32 = 52;

macro_rules! number_space {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number `n` further on, or `None` on overflow.
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(v) => Some(Self(v)),
                    None => None,
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

number_space!(
    /// Machine frame number: a machine address divided by [`PAGE_SIZE`].
    Mfn
);
number_space!(
    /// Pseudo-physical frame number: a guest's own numbering of its frames
    /// (`xen_pfn_t` where the public headers say GPFN).
    Pfn
);
number_space!(
    /// Machine (host-physical) address in bytes.
    MachineAddress
);
number_space!(
    /// Virtual address in the address space of the guest that is running.
    GuestVirtual
);

impl Mfn {
    /// The address of the first byte of the frame.
    pub const fn address(self) -> MachineAddress {
        MachineAddress(self.0 << PAGE_SHIFT)
    }
}

impl MachineAddress {
    /// The frame that holds the address.
    pub const fn frame(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// The offset of the address in its frame, in bytes.
    pub const fn offset(self) -> usize {
        (self.0 & (PAGE_SIZE as u64 - 1)) as usize
    }
}

impl GuestVirtual {
    /// First address of the range of virtual addresses that belongs to the
    /// hypervisor (`HYPERVISOR_VIRT_START`, xen/arch-x86/xen-x86_64.h).
    pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
    /// First address above the hypervisor's range (`HYPERVISOR_VIRT_END`).
    pub const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;

    /// Whether bits 47 to 63 are all equal.
    pub const fn is_canonical(self) -> bool {
        (((self.0 as i64) << 16) >> 16) as u64 == self.0
    }

    /// Whether `len` bytes from here lie wholly in canonical addresses outside
    /// the hypervisor's range, so that a guest may be asked for them.
    ///
    /// Like Xen's `__access_ok`, it lets the lower half overlap the
    /// non-canonical hole: an access there faults and is caught.
    pub const fn access_ok(self, len: u64) -> bool {
        match self.0.checked_add(len) {
            Some(end) => {
                (self.0 < (1 << 47) && end <= (1 << 47))
                    || (self.0 >= Self::HYPERVISOR_END)
                    || (len == 0)
            }
            None => {
                // The last byte may be the very last of the address space.
                self.0 >= Self::HYPERVISOR_END && self.0.wrapping_add(len) == 0
            }
        }
    }

    /// The index into the page table of `level` (1 to 4) that translates this
    /// address.
    pub const fn table_index(self, level: u32) -> usize {
        ((self.0 >> (PAGE_SHIFT + 9 * (level - 1))) & 0x1ff) as usize
    }
}
