//! The first boot of the cloud image: host name, ssh keys and user data from the cloud.
//!
//! Cloud-init is not used because it looks for its cloud in SMBIOS tables and on PCI, and Dom0
//! has neither (the first layer is hidden from every guest); and it would be larger than all else
//! that is added to Debian here. What is understood of its formats:
//!
//! - [`config`]: user data that is `#cloud-config` (host name, keys, password) or a script (`#!`);
//! - [`disk`]: NoCloud (a file system labelled `cidata`) and ConfigDrive (`config-2`);
//! - [`cloud`]: the metadata services of EC2, GCE, Azure and OpenStack, all at 169.254.169.254.
//!   They are told apart by what they answer.
//!
//! Everything is done for root, who is the one user of Dom0. [`apply`] does it once for each
//! instance, known by the id that the source gives, so that a copied disk becomes a new machine.

mod apply;
mod cloud;
mod config;
mod disk;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Result;
use config::UserData;

/// Where the metadata services of all clouds answer.
const METADATA: &str = "http://169.254.169.254";
/// Where Azure wants to hear that a machine is up.
const AZURE_WIRE: &str = "http://168.63.129.16";

/// What is known about this machine, from whichever source.
#[derive(Debug, Default, PartialEq, Eq)]
struct Instance {
    /// The source's name, for messages.
    source: &'static str,
    /// Names the instance: another id means another machine.
    id: String,
    /// Its name, perhaps with a domain.
    hostname: Option<String>,
    /// Public keys, as in `authorized_keys`.
    keys: Vec<String>,
    /// What the user gave along, not understood yet.
    user_data: Vec<u8>,
}

/// Looks for a source and applies what it says. `wait` bounds how long to look for a metadata
/// service; that there is none is no failure.
pub fn run(root: &Path, metadata: Option<&str>, wait: Duration) -> Result<()> {
    let Some(mut instance) = find(metadata.unwrap_or(METADATA), wait) else {
        say!("first boot: no metadata service, and no disk labelled cidata or config-2");
        return Ok(());
    };
    say!("first boot: {} {}", instance.source, instance.id);
    let user = UserData::parse(&instance.user_data);
    for unknown in &user.unknown {
        say!("first boot: \"{unknown}\" of the user data is not understood here");
    }
    instance.keys.extend(user.keys.iter().cloned());
    if let Some(name) = &user.hostname {
        instance.hostname = Some(name.clone());
    }
    apply::apply(root, &instance, &user)?;
    say!("first boot: done");
    if instance.source == cloud::AZURE && metadata.is_none() {
        match cloud::report_to_azure(AZURE_WIRE) {
            Ok(()) => say!("first boot: told Azure that the machine is ready"),
            Err(why) => {
                say!("first boot: Azure does not know that the machine is ready: {why}")
            }
        }
    }
    Ok(())
}

fn find(metadata: &str, wait: Duration) -> Option<Instance> {
    if let Some(instance) = disk::find() {
        return Some(instance);
    }
    let deadline = Instant::now() + wait;
    loop {
        match cloud::find(metadata) {
            Ok(found) => return found,
            Err(why) if Instant::now() >= deadline => {
                say!("first boot: {metadata}: {why}");
                return None;
            }
            // The network may still be coming up.
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}
