//! `xen_version` (version.h).

use overcast_core::error::{Error, Result};
use xen_abi::arch_x86::HYPERVISOR_VIRT_START;
use xen_abi::features::*;
use xen_abi::version::*;
use zerocopy::FromZeros;

use super::Call;
use crate::{build_info, guest, start};

/// The interface that is spoken: Xen 4.17.
pub const VERSION: i64 = 4 << 16 | 17;
/// `XENVER_extraversion`: which 4.17 it is taken for, and whose it is.
pub const EXTRA_VERSION: &str = ".0-overcast";
/// What kinds of guests can run (`XENVER_capabilities`).
const CAPABILITIES: &str = "xen-3.0-x86_64 ";
/// What a domain without privilege is told instead.
const DENIED: &str = "<denied>";

/// Writes a string and zeros up to `N` bytes.
fn write_text<const N: usize>(call: &Call<'_>, text: &str) -> Result<i64> {
    guest::write(call.address(1), &padded::<N>(text))?;
    Ok(0)
}

/// A string as a field of fixed size that ends with a zero.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let len = text.len().min(N - 1);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

/// `HYPERVISOR_xen_version(cmd, arg)`: ENOSYS for an unknown command.
pub fn xen_version(call: &mut Call<'_>) -> Result<i64> {
    let denied = !call.domain.privileged;
    let pick = |text: &'static str| if denied { DENIED } else { text };
    match call.args[0] as u32 {
        XENVER_VERSION => Ok(VERSION),
        XENVER_EXTRAVERSION => write_text::<XEN_EXTRAVERSION_LEN>(call, EXTRA_VERSION),
        XENVER_COMPILE_INFO => {
            let mut info = CompileInfo::new_zeroed();
            info.compiler = padded(pick(build_info::COMPILER));
            info.compile_by = padded(pick(build_info::BY));
            info.compile_domain = padded(pick(build_info::DOMAIN));
            info.compile_date = padded(pick(build_info::DATE));
            guest::write(call.address(1), &info)?;
            Ok(0)
        }
        XENVER_CAPABILITIES => write_text::<XEN_CAPABILITIES_INFO_LEN>(call, CAPABILITIES),
        XENVER_CHANGESET => write_text::<XEN_CHANGESET_INFO_LEN>(call, pick(build_info::CHANGESET)),
        XENVER_PLATFORM_PARAMETERS => {
            let parameters = PlatformParameters {
                virt_start: HYPERVISOR_VIRT_START,
            };
            guest::write(call.address(1), &parameters)?;
            Ok(0)
        }
        XENVER_GET_FEATURES => {
            let mut info: FeatureInfo = guest::read(call.address(1))?;
            if info.submap_idx != 0 {
                return Err(Error::Invalid);
            }
            info.submap = 1 << XENFEAT_MEMORY_OP_VNODE_SUPPORTED
                | 1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
                | 1 << XENFEAT_HIGHMEM_ASSIST
                | 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS
                | 1 << XENFEAT_DIRECT_MAPPED;
            if call.domain.privileged {
                info.submap |= 1 << XENFEAT_DOM0;
            }
            guest::write(call.address(1), &info)?;
            Ok(0)
        }
        XENVER_PAGESIZE if denied => Ok(0),
        XENVER_PAGESIZE if !call.handle(1).is_null() => Err(Error::Invalid),
        XENVER_PAGESIZE => Ok(4096),
        XENVER_GUEST_HANDLE => {
            let handle = *call.domain.handle.lock();
            guest::write(call.address(1), &handle)?;
            Ok(0)
        }
        XENVER_COMMANDLINE => {
            if denied {
                let text = [DENIED.as_bytes(), &[0]].concat();
                guest::write_bytes(call.address(1), &text)?;
            } else {
                // As long as Xen's own buffer, which callers reckon with.
                guest::write(
                    call.address(1),
                    &padded::<1024>(start::boot_info().command_line()),
                )?;
            }
            Ok(0)
        }
        XENVER_BUILD_ID if denied => Err(Error::NotPermitted),
        // The image carries no build id.
        XENVER_BUILD_ID => {
            if !call.handle(1).is_null() {
                let id: BuildIdHeader = guest::read(call.address(1))?;
                if id == 0 {
                    return Err(Error::Invalid);
                }
            }
            Err(Error::NoData)
        }
        _ => Err(Error::NotImplemented),
    }
}

/// `len` of `xen_build_id_t`.
type BuildIdHeader = u32;
