//! What the store says of a domain, as libxl writes it, so that Xen's tools know our domains
//! and guests find their devices.
//!
//! | where | what |
//! |---|---|
//! | `/local/domain/N` | the domain: name, memory, vCPUs, console, store, devices' frontends |
//! | `/vm/UUID` | what stays the same when it is moved |
//! | `/libxl/N` | Xen's tools' own: the type, and a copy of each device's keys |
//! | `/local/domain/32754/backend/KIND/N/DEVICE` | a disk's or network device's backend, in the hypervisor |
//! | `/local/domain/0/backend/console/N/0` | the console's, in Dom0 |

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use xen_abi::io_xenbus::{XENBUS_STATE_CLOSING, XENBUS_STATE_INIT_WAIT, XENBUS_STATE_INITIALISING};

use super::{Rings, Shell, random};
use crate::config::DomainConfig;
use crate::config::devices::{BACKEND_DOMAIN, Disk, Vif};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::store::Store;

/// The most bytes of a console that are kept for it, as Xen's tools are told.
const CONSOLE_LIMIT: u32 = 1 << 20;
/// How long a backend in the hypervisor may take to look at a new device.
const BACKEND_PATIENCE: Duration = Duration::from_secs(10);

/// A device of a domain: the keys of both ends.
struct Device<'a> {
    kind: &'a str,
    /// The domain of the backend.
    backend_domain: u16,
    number: u32,
    backend: Vec<(&'a str, String)>,
    frontend: Vec<(&'a str, String)>,
    /// Its frontend's directory is not below `device`, and the guest cannot write it.
    is_console: bool,
}

impl Device<'_> {
    fn backend_path(&self, domain: u16) -> String {
        format!(
            "/local/domain/{}/backend/{}/{domain}/{}",
            self.backend_domain, self.kind, self.number
        )
    }

    fn frontend_path(&self, domain: u16) -> String {
        match self.is_console {
            true => format!("/local/domain/{domain}/console"),
            false => format!(
                "/local/domain/{domain}/device/{}/{}",
                self.kind, self.number
            ),
        }
    }

    /// Writes its nodes; in a transaction.
    fn write(&self, store: &mut Store, domain: u16) -> Result<()> {
        let (back, front) = (self.backend_path(domain), self.frontend_path(domain));
        let copy = format!("/libxl/{domain}/device/{}/{}", self.kind, self.number);
        let owned = |owner: u16, reader: u16| [format!("n{owner}"), format!("r{reader}")];
        let backend_permissions = owned(self.backend_domain, domain);
        let frontend_permissions = match self.is_console {
            true => owned(self.backend_domain, domain),
            false => owned(domain, self.backend_domain),
        };
        for (path, permissions) in [
            (&front, &frontend_permissions),
            (&back, &backend_permissions),
        ] {
            make(store, path, permissions)?;
        }
        let text = |(key, value): &(&str, String)| ((*key).to_owned(), value.clone());
        let backend: Vec<_> = [
            ("frontend".to_owned(), front.clone()),
            ("frontend-id".to_owned(), domain.to_string()),
            ("online".to_owned(), "1".to_owned()),
        ]
        .into_iter()
        .chain(self.backend.iter().map(text))
        .chain([("state".to_owned(), XENBUS_STATE_INITIALISING.to_string())])
        .collect();
        let frontend = [
            ("backend".to_owned(), back.clone()),
            ("backend-id".to_owned(), self.backend_domain.to_string()),
        ]
        .into_iter()
        .chain(self.frontend.iter().map(text))
        .chain([("state".to_owned(), XENBUS_STATE_INITIALISING.to_string())]);
        for (key, value) in frontend {
            if !(self.is_console && key == "state") {
                store.write(&format!("{front}/{key}"), value.as_bytes())?;
            }
        }
        store.write(&format!("{copy}/backend"), back.as_bytes())?;
        for (key, value) in &backend {
            store.write(&format!("{copy}/{key}"), value.as_bytes())?;
            store.write(&format!("{back}/{key}"), value.as_bytes())?;
        }
        Ok(())
    }
}

/// The domain in which the store is: Dom0, unless it says otherwise.
pub fn store_domain(store: &mut Store) -> Result<u16> {
    let text = store.read_text("/tool/xenstored/domid")?;
    Ok(text.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
}

/// Makes a node anew.
fn make(store: &mut Store, path: &str, permissions: &[impl AsRef<str>]) -> Result<()> {
    match store.remove(path) {
        Err(Error::Store { error, .. }) if error == "ENOENT" => {}
        other => other?,
    }
    store.mkdir(path)?;
    let permissions: Vec<&str> = permissions.iter().map(AsRef::as_ref).collect();
    store.set_permissions(path, &permissions)
}

/// What a new domain is called, and boots.
pub struct Identity<'a> {
    /// Its UUID as text.
    pub uuid: &'a str,
    /// Its configuration.
    pub config: &'a DomainConfig,
}

/// Writes a domain's nodes, and tells the store of it.
pub fn write(
    store: &mut Store,
    shell: &Shell,
    rings: &Rings,
    identity: &Identity<'_>,
) -> Result<()> {
    prepare(store, shell, identity)?;
    introduce(store, shell, rings)
}

/// Writes a domain's nodes but for where its rings are, which may come later. The hypervisor
/// looks at its devices from then on.
pub fn prepare(store: &mut Store, shell: &Shell, identity: &Identity<'_>) -> Result<()> {
    store.transaction(|store| write_domain(store, shell, identity))
}

/// Says where the rings of a domain are whose other nodes are there, and tells the store of it.
pub fn introduce(store: &mut Store, shell: &Shell, rings: &Rings) -> Result<()> {
    let domain = shell.domain;
    for (ring, frame) in [("store", rings.store), ("console", rings.console)] {
        let path = format!("/local/domain/{domain}/{ring}/ring-ref");
        store.write(&path, frame.0.to_string().as_bytes())?;
    }
    store.introduce(domain, rings.store.0, shell.store_port.0)
}

fn write_domain(store: &mut Store, shell: &Shell, identity: &Identity<'_>) -> Result<()> {
    let (domain, config) = (shell.domain, identity.config);
    let home = format!("/local/domain/{domain}");
    let vm = format!("/vm/{}", identity.uuid);
    let tools = format!("/libxl/{domain}");
    let read_only = ["n0".to_owned(), format!("r{domain}")];
    let guests_own = [format!("n{domain}")];
    make(store, &home, &read_only)?;
    make(store, &vm, &read_only)?;
    make(store, &tools, &["n0"])?;
    make(store, &format!("{tools}/device"), &["n0"])?;
    for name in ["cpu", "memory", "device", "control"] {
        make(store, &format!("{home}/{name}"), &read_only)?;
    }
    for name in [
        "device/suspend/event-channel",
        "control/shutdown",
        "control/feature-poweroff",
        "control/feature-reboot",
        "control/feature-suspend",
        "control/sysrq",
        "data",
        "drivers",
        "feature",
        "attr",
        "error",
    ] {
        make(store, &format!("{home}/{name}"), &guests_own)?;
    }
    let mut keys = vec![
        (format!("{home}/vm"), vm.clone()),
        (format!("{home}/name"), config.name.clone()),
        (format!("{home}/domid"), domain.to_string()),
        (
            format!("{home}/memory/static-max"),
            config.max_memory_kib.to_string(),
        ),
        (
            format!("{home}/memory/target"),
            config.memory_kib.to_string(),
        ),
        (format!("{home}/memory/videoram"), "0".to_owned()),
        (format!("{home}/store/port"), shell.store_port.0.to_string()),
        (
            format!("{home}/control/platform-feature-multiprocessor-suspend"),
            "1".to_owned(),
        ),
        (
            format!("{home}/control/platform-feature-xs_reset_watches"),
            "1".to_owned(),
        ),
        (format!("{vm}/uuid"), identity.uuid.to_owned()),
        (format!("{vm}/name"), config.name.clone()),
        (format!("{vm}/image/ostype"), "linux".to_owned()),
        (
            format!("{vm}/image/kernel"),
            config.kernel.display().to_string(),
        ),
        (format!("{vm}/image/cmdline"), config.cmdline.clone()),
        (format!("{vm}/start_time"), start_time()),
        (format!("{tools}/type"), "pv".to_owned()),
    ];
    if let Some(initrd) = &config.initrd {
        keys.push((format!("{vm}/image/ramdisk"), initrd.display().to_string()));
    }
    for vcpu in 0..config.max_vcpus {
        let state = if vcpu < config.vcpus {
            "online"
        } else {
            "offline"
        };
        keys.push((format!("{home}/cpu/{vcpu}/availability"), state.to_owned()));
    }
    for (path, value) in &keys {
        store.write(path, value.as_bytes())?;
    }
    console(shell).write(store, domain)?;
    for disk in &config.disks {
        vbd(disk).write(store, domain)?;
    }
    for (number, nic) in (0..).zip(&config.vifs) {
        vif(nic, number)?.write(store, domain)?;
    }
    Ok(())
}

/// Seconds since the epoch, with hundredths.
fn start_time() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or(Duration::ZERO);
    format!("{}.{:02}", now.as_secs(), now.subsec_millis() / 10)
}

fn console(shell: &Shell) -> Device<'static> {
    Device {
        kind: "console",
        backend_domain: 0,
        number: 0,
        backend: vec![("protocol", "vt100".to_owned())],
        frontend: vec![
            ("limit", CONSOLE_LIMIT.to_string()),
            ("type", "xenconsoled".to_owned()),
            ("output", "pty".to_owned()),
            ("tty", String::new()),
            ("port", shell.console_port.0.to_string()),
        ],
        is_console: true,
    }
}

fn vbd(disk: &Disk) -> Device<'static> {
    let number = disk.number();
    Device {
        kind: "vbd",
        backend_domain: BACKEND_DOMAIN,
        number,
        backend: vec![
            ("params", disk.source.clone()),
            ("removable", "0".to_owned()),
            ("bootable", "1".to_owned()),
            ("dev", disk.device.clone()),
            ("type", "phy".to_owned()),
            ("mode", if disk.read_only { "r" } else { "w" }.to_owned()),
            ("device-type", "disk".to_owned()),
        ],
        frontend: vec![
            ("virtual-device", number.to_string()),
            ("device-type", "disk".to_owned()),
        ],
        is_console: false,
    }
}

fn vif(nic: &Vif, number: u32) -> Result<Device<'static>> {
    let mac = match &nic.mac {
        Some(mac) => mac.clone(),
        None => {
            // Of the range that is Xen's.
            let [a, b, c] = random::<3>()?;
            format!("00:16:3e:{:02x}:{b:02x}:{c:02x}", a & 0x7f)
        }
    };
    let mut backend = vec![
        ("mac", mac.clone()),
        ("bridge", nic.network.clone()),
        ("handle", number.to_string()),
        ("type", "vif".to_owned()),
    ];
    let mut frontend = vec![("handle", number.to_string()), ("mac", mac)];
    if let Some((bytes, interval)) = nic.rate {
        backend.push(("rate", format!("{bytes},{interval}")));
    }
    if !nic.spoofchk {
        backend.push(("spoofchk", "0".to_owned()));
    }
    if let Some(mtu) = nic.mtu {
        backend.push(("mtu", mtu.to_string()));
        frontend.push(("mtu", mtu.to_string()));
    }
    Ok(Device {
        kind: "vif",
        backend_domain: BACKEND_DOMAIN,
        number,
        backend,
        frontend,
        is_console: false,
    })
}

/// Waits until the hypervisor has looked at each of a domain's devices.
///
/// # Errors
/// `Device` with what it says of one that it does not take.
pub fn wait_for_backends(store: &mut Store, domain: u16, config: &DomainConfig) -> Result<()> {
    let disks = config.disks.iter().map(|disk| {
        let number = disk.number();
        (
            "vbd",
            number,
            format!("disk {} ({})", disk.device, disk.source),
        )
    });
    let nics = (0..).zip(&config.vifs);
    let nics = nics.map(|(number, nic)| ("vif", number, format!("vif {number}, {}", nic.network)));
    for (kind, number, shown) in disks.chain(nics) {
        wait_for_backend(store, kind, domain, number, &shown)?;
    }
    Ok(())
}

/// Waits until the hypervisor has looked at one device, which messages call `shown`.
///
/// # Errors
/// As [`wait_for_backends`].
pub fn wait_for_backend(
    store: &mut Store,
    kind: &str,
    domain: u16,
    number: u32,
    shown: &str,
) -> Result<()> {
    let end = Instant::now() + BACKEND_PATIENCE;
    let name = format!("backend/{kind}/{domain}/{number}");
    let state_path = format!("/local/domain/{BACKEND_DOMAIN}/{name}/state");
    let error_path = format!("/local/domain/{BACKEND_DOMAIN}/error/{name}/error");
    let refused = |why: &str| Error::Device {
        device: shown.to_owned(),
        why: why.to_owned(),
    };
    loop {
        let state = store.read_text(&state_path)?;
        let state = state.and_then(|state| state.parse::<u32>().ok());
        if state
            .is_some_and(|state| (XENBUS_STATE_INIT_WAIT..XENBUS_STATE_CLOSING).contains(&state))
        {
            return Ok(());
        }
        if let Some(why) = store.read_text(&error_path)? {
            // Behind the number of an errno stands the text.
            return Err(refused(
                why.split_once(' ').map_or(why.as_str(), |(_, text)| text),
            ));
        }
        if Instant::now() >= end {
            return Err(refused("the hypervisor does not take it"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A node and all below it, if it is there.
fn remove_node(store: &mut Store, path: &str) -> Result<()> {
    match store.remove(path) {
        Err(Error::Store { error, .. }) if error == "ENOENT" => Ok(()),
        other => other,
    }
}

/// Has the hypervisor give a domain's devices up.
pub fn remove_devices(store: &mut Store, domain: u16) -> Result<()> {
    for kind in ["vbd", "vif"] {
        for parent in ["", "error/"] {
            let path = format!("/local/domain/{BACKEND_DOMAIN}/{parent}backend/{kind}/{domain}");
            remove_node(store, &path)?;
        }
    }
    Ok(())
}

/// Removes what the store says of domains that are no more: a Dom0 that died while it took them
/// apart left it.
pub fn sweep(control: &Control, store: &mut Store) -> Result<()> {
    // In this order: who makes a domain makes it before its nodes.
    let names = store.list("/local/domain")?;
    let domains = control.domains()?;
    for domain in names.iter().filter_map(|name| name.parse::<u16>().ok()) {
        let there = domains.iter().any(|info| info.id == domain);
        if domain != 0 && domain != BACKEND_DOMAIN && !there {
            remove(store, domain)?;
        }
    }
    Ok(())
}

/// Whether another domain has the same `/vm` node: this one is being moved within the machine.
fn is_anothers(store: &mut Store, domain: u16, vm: &str) -> Result<bool> {
    for other in store.list("/local/domain")? {
        if other != domain.to_string()
            && store
                .read_text(&format!("/local/domain/{other}/vm"))?
                .as_deref()
                == Some(vm)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes all that the store says of a domain.
pub fn remove(store: &mut Store, domain: u16) -> Result<()> {
    let home = format!("/local/domain/{domain}");
    if let Some(vm) = store.read_text(&format!("{home}/vm"))?
        && vm.starts_with("/vm/")
        && vm.len() > 4
        && !is_anothers(store, domain, &vm)?
    {
        remove_node(store, &vm)?;
    }
    remove_devices(store, domain)?;
    remove_node(store, &format!("/local/domain/0/backend/console/{domain}"))?;
    remove_node(store, &format!("/libxl/{domain}"))?;
    remove_node(store, &home)
}
