//! The configuration of a new domain (`struct xen_domctl_createdomain`).

use xen_abi::domctl::{
    DomctlCreatedomain, XEN_DOMCTL_CDF_OOS_OFF, XEN_DOMCTL_CDF_XS_DOMAIN,
    XEN_DOMCTL_GRANT_VERSION_MASK,
};

use crate::error::{Error, Result};
use crate::grant::{GrantLimits, INITIAL_FRAMES};

/// `XEN_X86_MSR_RELAXED`: reads of unknown MSRs give 0.
const MSR_RELAXED: u32 = 1;
/// `XEN_X86_EMU_ALL`: the devices that a configuration can name.
const EMULATED_ALL: u32 = 0x7ff;
/// `XEN_X86_EMU_PIT`: the only one that a PV domain may have.
const EMULATED_PIT: u32 = 1 << 8;
/// The pool that all CPUs and domains are in.
const POOL: u32 = 0;

/// What the machine lets a new domain have.
#[derive(Clone, Copy, Debug)]
pub struct CreateLimits {
    /// vCPUs.
    pub max_vcpus: u32,
    /// Sizes and version of its grant table.
    pub grants: GrantLimits,
}

/// A configuration that was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewDomain {
    /// Its UUID.
    pub handle: [u8; 16],
    /// It is the one that runs the store.
    pub store: bool,
    /// How many vCPUs it will have.
    pub max_vcpus: u32,
    /// The highest port of an event channel.
    pub max_port: u32,
    /// The limits of its grant table.
    pub grants: GrantLimits,
    /// Reads of unknown MSRs give 0.
    pub relaxed_msrs: bool,
    /// The devices that are emulated for it, as it was said.
    pub emulation_flags: u32,
}

impl NewDomain {
    /// Checks a configuration, as Xen without HVM, IOMMU and tracing does.
    ///
    /// # Errors
    /// `Invalid` for what there is not or may not be combined, `NotSupported` for
    /// emulated devices, `NoDomain` for a pool that there is not.
    pub fn check(config: &DomctlCreatedomain, limits: &CreateLimits) -> Result<Self> {
        // That shadow page tables stay in step is a matter of course for a PV domain.
        let known = XEN_DOMCTL_CDF_XS_DOMAIN | XEN_DOMCTL_CDF_OOS_OFF;
        if config.flags & !known != 0
            || config.grant_opts & !XEN_DOMCTL_GRANT_VERSION_MASK != 0
            || !(1..=limits.max_vcpus).contains(&config.max_vcpus)
            || config.iommu_opts != 0
            || config.vmtrace_size != 0
            || config.arch.misc_flags & !MSR_RELAXED != 0
            || config.arch.emulation_flags & !EMULATED_ALL != 0
        {
            return Err(Error::Invalid);
        }
        if config.arch.emulation_flags & !EMULATED_PIT != 0 {
            return Err(Error::NotSupported);
        }
        let grants = Self::grants(config, &limits.grants)?;
        if config.cpupool_id != POOL {
            return Err(Error::NoDomain);
        }
        Ok(Self {
            handle: config.handle,
            store: config.flags & XEN_DOMCTL_CDF_XS_DOMAIN != 0,
            max_vcpus: config.max_vcpus,
            max_port: config.max_evtchn_port,
            grants,
            relaxed_msrs: config.arch.misc_flags & MSR_RELAXED != 0,
            emulation_flags: config.arch.emulation_flags,
        })
    }

    /// The limits of the grant table: negative ones are the machine's own.
    fn grants(config: &DomctlCreatedomain, limits: &GrantLimits) -> Result<GrantLimits> {
        let or_default = |wanted: i32, default: u32| u32::try_from(wanted).unwrap_or(default);
        let grants = GrantLimits {
            max_frames: or_default(config.max_grant_frames, limits.max_frames),
            max_maptrack_frames: or_default(config.max_maptrack_frames, limits.max_maptrack_frames),
            max_version: config.grant_opts & XEN_DOMCTL_GRANT_VERSION_MASK,
        };
        let fits = (1..=limits.max_version).contains(&grants.max_version)
            && (INITIAL_FRAMES..=limits.max_frames).contains(&grants.max_frames)
            && grants.max_maptrack_frames <= limits.max_maptrack_frames;
        fits.then_some(grants).ok_or(Error::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_abi::domctl::*;
    use zerocopy::FromZeros;

    const LIMITS: CreateLimits = CreateLimits {
        max_vcpus: 96,
        grants: GrantLimits {
            max_frames: 64,
            max_maptrack_frames: 1024,
            max_version: 2,
        },
    };

    /// What xl asks for.
    fn usual() -> DomctlCreatedomain {
        let mut config = DomctlCreatedomain::new_zeroed();
        config.flags = XEN_DOMCTL_CDF_OOS_OFF;
        config.max_vcpus = 2;
        config.max_evtchn_port = 1023;
        config.max_grant_frames = -1;
        config.max_maptrack_frames = -1;
        config.grant_opts = 2;
        config
    }

    fn check(change: impl FnOnce(&mut DomctlCreatedomain)) -> Result<NewDomain> {
        let mut config = usual();
        change(&mut config);
        NewDomain::check(&config, &LIMITS)
    }

    #[test]
    fn the_usual_configuration_is_accepted() {
        let new = check(|_| {}).unwrap();
        assert_eq!(new.grants, LIMITS.grants);
        assert_eq!((new.max_vcpus, new.max_port, new.store), (2, 1023, false));
        let new = check(|c| {
            c.max_grant_frames = 4;
            c.max_maptrack_frames = 0;
            c.grant_opts = 1;
        })
        .unwrap();
        assert_eq!(new.grants.max_frames, 4);
        assert_eq!(new.grants.max_maptrack_frames, 0);
        assert_eq!(new.grants.max_version, 1);
    }

    #[test]
    fn what_there_is_not_is_refused() {
        let invalid = |change: &dyn Fn(&mut DomctlCreatedomain)| {
            assert_eq!(check(|c| change(c)), Err(Error::Invalid));
        };
        for flag in [
            XEN_DOMCTL_CDF_HVM,
            XEN_DOMCTL_CDF_HAP,
            XEN_DOMCTL_CDF_S3_INTEGRITY,
            XEN_DOMCTL_CDF_IOMMU,
            XEN_DOMCTL_CDF_NESTED_VIRT,
            XEN_DOMCTL_CDF_VPMU,
            1 << 8,
            1 << 31,
        ] {
            invalid(&|c| c.flags |= flag);
        }
        invalid(&|c| c.max_vcpus = 0);
        invalid(&|c| c.max_vcpus = 97);
        invalid(&|c| c.iommu_opts = 1);
        invalid(&|c| c.vmtrace_size = 4096);
        invalid(&|c| c.grant_opts = 0);
        invalid(&|c| c.grant_opts = 3);
        invalid(&|c| c.grant_opts = 16 + 1);
        invalid(&|c| c.max_grant_frames = 0);
        invalid(&|c| c.max_grant_frames = 65);
        invalid(&|c| c.max_maptrack_frames = 1025);
        invalid(&|c| c.arch.misc_flags = 2);
        invalid(&|c| c.arch.emulation_flags = 1 << 11);
        assert_eq!(
            check(|c| c.arch.emulation_flags = 1),
            Err(Error::NotSupported)
        );
        assert!(check(|c| c.arch.emulation_flags = EMULATED_PIT).is_ok());
        assert_eq!(check(|c| c.cpupool_id = 1), Err(Error::NoDomain));
    }
}
