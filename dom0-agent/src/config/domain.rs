//! What a domain is to be.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::devices::{self, Disk, Vif};
use super::{ConfigError, ConfigResult, Table, Value, wrong, xl};
use crate::cli::parse_memory;

/// The most vCPUs of a domain that is built here: those with a place in `shared_info`.
pub const MAX_VCPUS: u32 = 32;
/// The longest command line that `start_info` has room for.
const MAX_COMMAND_LINE: usize = 1023;
/// The least memory that a kernel can be built into, KiB.
const LEAST_MEMORY: u64 = 8 << 10;

/// What becomes of a domain that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It is taken apart.
    Destroy,
    /// It is taken apart, and made again.
    Restart,
    /// It stays as it is, to be looked at.
    Preserve,
}

/// What RDTSC gives a domain, by xl's names; see `docs/cpu.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TscMode {
    /// The machine's TSC, and after a move to a machine of another rate an emulated one.
    #[default]
    Default,
    /// An emulated one.
    AlwaysEmulate,
    /// The machine's.
    Native,
}

impl TscMode {
    const ALL: [Self; 3] = [Self::Default, Self::AlwaysEmulate, Self::Native];

    /// xl's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::AlwaysEmulate => "always_emulate",
            Self::Native => "native",
        }
    }

    /// By xl's name, or its number as text.
    pub fn by_name(name: &str) -> Option<Self> {
        let named = |mode: &Self| mode.name() == name || mode.number().to_string() == name;
        Self::ALL.into_iter().find(named)
    }

    /// `TSC_MODE_*`
    pub fn number(self) -> u32 {
        match self {
            Self::Default => 0,
            Self::AlwaysEmulate => 1,
            Self::Native => 2,
        }
    }
}

/// A domain to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DomainConfig {
    /// Its name.
    pub name: String,
    /// Its UUID; one is made up if there is none.
    pub uuid: Option<String>,
    /// File with its kernel.
    pub kernel: PathBuf,
    /// File with its initrd.
    pub initrd: Option<PathBuf>,
    /// Its kernel's command line.
    pub cmdline: String,
    /// Memory, KiB.
    pub memory_kib: u64,
    /// The most that it may have, KiB.
    pub max_memory_kib: u64,
    /// vCPUs that are online from the start.
    pub vcpus: u32,
    /// The most that it may have.
    pub max_vcpus: u32,
    /// CPUs where its vCPUs may run, as `overcast vcpu-pin` has them; one text for all, or one
    /// for each.
    pub cpus: Vec<String>,
    /// The CPU that it sees, by its name or file; what the hypervisor says without it.
    #[serde(default)]
    pub cpu: Option<String>,
    /// What of its features is otherwise, in libxl's syntax ([`crate::cpu::choices`]).
    #[serde(default)]
    pub cpuid: Option<String>,
    /// What RDTSC gives it.
    #[serde(default)]
    pub tsc_mode: TscMode,
    /// Its weight against other domains.
    pub weight: Option<u16>,
    /// The most CPU that it may have, percent of one.
    pub cap: Option<u16>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network devices.
    pub vifs: Vec<Vif>,
    /// When it has powered off.
    pub on_poweroff: Event,
    /// When it has rebooted.
    pub on_reboot: Event,
    /// When it has crashed.
    pub on_crash: Event,
}

/// Reads a file's text: TOML if its name ends so, xl's syntax else.
pub fn parse_file(name: &str, text: &str) -> ConfigResult<Table> {
    if name.ends_with(".toml") {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError(error.to_string()))?;
        match Value::from(toml::Value::Table(table)) {
            Value::Table(table) => Ok(table),
            _ => Ok(Table::new()),
        }
    } else {
        xl::parse(text)
    }
}

/// A name that a domain may have.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.parse::<u64>().is_ok() {
        return Err("empty names and numbers are not allowed");
    }
    if name.len() > 64 || name.contains(['/', '\0', '\n']) {
        return Err("slashes, line ends and more than 64 bytes are not allowed");
    }
    Ok(())
}

/// The values while they are taken.
struct Reader {
    table: Table,
}

impl Reader {
    fn text(&mut self, key: &str) -> ConfigResult<Option<String>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "expected a text (in quotes)")),
        }
    }

    /// The first of several keys for the same that is there.
    fn any_text(&mut self, keys: &[&str]) -> ConfigResult<Option<String>> {
        let mut found = None;
        for key in keys {
            found = match (found, self.text(key)?) {
                (Some(found), Some(other)) if found != other => {
                    return Err(wrong(keys[0], format_args!("{key} says something else")));
                }
                (found, other) => found.or(other),
            };
        }
        Ok(found)
    }

    fn number(&mut self, key: &str, most: u32) -> ConfigResult<Option<u32>> {
        self.number_from(key, 1, most)
    }

    fn number_from(&mut self, key: &str, least: u32, most: u32) -> ConfigResult<Option<u32>> {
        let number = match self.table.remove(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => u32::try_from(number).ok(),
            // xl takes numbers in quotes, too.
            Some(Value::Text(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(
                key,
                format_args!("expected a number from {least} to {most}"),
            )),
        }
    }

    /// A size in KiB; MiB without a unit.
    fn memory(&mut self, key: &str) -> ConfigResult<Option<u64>> {
        let text = match self.table.remove(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Text(text)) => text,
            Some(_) => String::new(),
        };
        parse_memory(text.trim())
            .map(Some)
            .map_err(|why| wrong(key, why))
    }

    fn list(&mut self, key: &str) -> ConfigResult<Vec<Value>> {
        match self.table.remove(key) {
            None => Ok(Vec::new()),
            Some(Value::List(list)) => Ok(list),
            Some(_) => Err(wrong(key, "expected a list in brackets")),
        }
    }

    fn cpuid(&mut self) -> ConfigResult<Option<String>> {
        if let Some(Value::List(_)) = self.table.get("cpuid") {
            return Err(wrong(
                "cpuid",
                "leaves with bits for registers are not taken; name features: \"host,avx=0\"",
            ));
        }
        let text = self.text("cpuid")?;
        if let Some(text) = &text {
            crate::cpu::choices(text).map_err(|why| wrong("cpuid", why))?;
        }
        Ok(text)
    }

    fn tsc_mode(&mut self) -> ConfigResult<TscMode> {
        let name = match self.table.remove("tsc_mode") {
            None => return Ok(TscMode::Default),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Text(text)) => text,
            Some(_) => String::new(),
        };
        TscMode::by_name(&name).ok_or_else(|| {
            wrong(
                "tsc_mode",
                format_args!("\"{name}\" is not known: default, always_emulate or native"),
            )
        })
    }

    fn event(&mut self, key: &str, default: Event) -> ConfigResult<Event> {
        match self.text(key)?.as_deref() {
            None => Ok(default),
            // No core is written here.
            Some("destroy" | "coredump-destroy") => Ok(Event::Destroy),
            Some("restart" | "coredump-restart") => Ok(Event::Restart),
            Some("preserve") => Ok(Event::Preserve),
            Some(other) => Err(wrong(
                key,
                format_args!("\"{other}\" is not known: destroy, restart or preserve"),
            )),
        }
    }
}

impl DomainConfig {
    /// Understands a configuration; gives what of it is not known, too.
    ///
    /// # Errors
    /// What is missing or wrong, with its key.
    pub fn from_table(table: Table) -> ConfigResult<(Self, Vec<String>)> {
        let mut reader = Reader { table };
        refuse(&mut reader)?;
        let name = reader
            .text("name")?
            .ok_or_else(|| wrong("name", "missing: what the domain is called"))?;
        check_name(&name).map_err(|why| wrong("name", format_args!("\"{name}\": {why}")))?;
        let uuid = match reader.text("uuid")? {
            None => None,
            Some(text) => Some(
                parse_uuid(&text)
                    .map(|bytes| crate::control::uuid(&bytes))
                    .ok_or_else(|| wrong("uuid", format_args!("\"{text}\" is no UUID")))?,
            ),
        };
        let kernel = reader
            .text("kernel")?
            .ok_or_else(|| wrong("kernel", "missing: the file with the guest's kernel"))?;
        let initrd = reader.any_text(&["initrd", "ramdisk"])?;
        let cmdline = command_line(&mut reader)?;
        let memory = reader.memory("memory")?;
        let max_memory = reader.memory("maxmem")?;
        let memory_kib = memory
            .or(max_memory)
            .ok_or_else(|| wrong("memory", "missing: like 512, in MiB"))?;
        let max_memory_kib = max_memory.unwrap_or(memory_kib);
        if memory_kib < LEAST_MEMORY {
            return Err(wrong("memory", "8 MiB are the least"));
        }
        if max_memory_kib < memory_kib {
            return Err(wrong("maxmem", "less than memory"));
        }
        // Frame numbers of 32 bits are the most that tools and grants can name.
        if max_memory_kib / 4 > u64::from(u32::MAX) {
            return Err(wrong("maxmem", "16 TiB are the most"));
        }
        let vcpus = reader.number("vcpus", MAX_VCPUS)?;
        let max_vcpus = reader.number("maxvcpus", MAX_VCPUS)?;
        let online = vcpus.or(max_vcpus).unwrap_or(1);
        let max_vcpus = max_vcpus.unwrap_or(online);
        if online > max_vcpus {
            return Err(wrong("vcpus", "more than maxvcpus"));
        }
        let cpus = cpus(&mut reader)?;
        let config = Self {
            name,
            uuid,
            kernel: kernel.into(),
            initrd: initrd.map(PathBuf::from),
            cmdline,
            memory_kib,
            max_memory_kib,
            vcpus: online,
            max_vcpus,
            cpus,
            cpu: reader.text("cpu")?,
            cpuid: reader.cpuid()?,
            tsc_mode: reader.tsc_mode()?,
            weight: reader
                .number("cpu_weight", 65535)?
                .map(|weight| weight as u16),
            cap: reader.number_from("cap", 0, 65535)?.map(|cap| cap as u16),
            disks: devices::disks("disk", &reader.list("disk")?)?,
            vifs: devices::vifs("vif", &reader.list("vif")?)?,
            on_poweroff: reader.event("on_poweroff", Event::Destroy)?,
            on_reboot: reader.event("on_reboot", Event::Restart)?,
            on_crash: reader.event("on_crash", Event::Destroy)?,
        };
        let unknown = reader.table.into_keys().collect();
        Ok((config, unknown))
    }
}

/// What there is not, and would be missed.
fn refuse(reader: &mut Reader) -> ConfigResult<()> {
    for key in ["type", "builder"] {
        match reader.text(key)?.as_deref() {
            None | Some("pv" | "generic" | "linux") => {}
            Some(other) => {
                return Err(wrong(
                    key,
                    format_args!(
                        "\"{other}\": only PV guests (\"pv\") can run without hardware virtualization"
                    ),
                ));
            }
        }
    }
    for key in ["bootloader", "bootloader_args"] {
        if reader.table.contains_key(key) {
            return Err(wrong(
                key,
                "no boot loader is run in Dom0: name the guest's kernel, or have it boot by \
                 itself with kernel = \"…/grub-x86_64-xen.bin\"",
            ));
        }
    }
    for key in [
        "pci",
        "vtpm",
        "p9",
        "usbdev",
        "channel",
        "vfb",
        "device_tree",
    ] {
        match reader.table.get(key) {
            Some(Value::List(list)) if list.is_empty() => {
                reader.table.remove(key);
            }
            Some(_) => return Err(wrong(key, "there are no such devices for guests")),
            None => {}
        }
    }
    Ok(())
}

fn command_line(reader: &mut Reader) -> ConfigResult<String> {
    let whole = reader.text("cmdline")?;
    let root = reader.text("root")?;
    let extra = reader.text("extra")?;
    let line = match (whole, root, extra) {
        (Some(whole), None, None) => whole,
        (Some(_), _, _) => return Err(wrong("cmdline", "either it, or root and extra")),
        (None, None, extra) => extra.unwrap_or_default(),
        (None, Some(root), None) => format!("root={root}"),
        (None, Some(root), Some(extra)) => format!("root={root} {extra}"),
    };
    if line.len() > MAX_COMMAND_LINE || line.contains('\0') {
        return Err(wrong(
            "cmdline",
            format_args!("{} bytes; {MAX_COMMAND_LINE} are the most", line.len()),
        ));
    }
    Ok(line)
}

fn cpus(reader: &mut Reader) -> ConfigResult<Vec<String>> {
    let list = match reader.table.remove("cpus") {
        None => return Ok(Vec::new()),
        Some(Value::List(list)) => list,
        Some(one) => vec![one],
    };
    list.into_iter()
        .map(|one| match one {
            Value::Text(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(wrong("cpus", "expected like \"0-3\", or a list of such")),
        })
        .collect()
}

/// A UUID's bytes; dashes are left out at will.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|&byte| byte != b'-')
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xl(text: &str) -> ConfigResult<(DomainConfig, Vec<String>)> {
        DomainConfig::from_table(parse_file("x.cfg", text)?)
    }

    const LEAST: &str = "name='g'\nkernel='/k'\nmemory=64\n";

    #[test]
    fn the_readmes_domain_is_one() {
        let text = include_str!("../../../README.md");
        let (_, rest) = text.split_once("```toml").expect("a domain");
        let (text, _) = rest.split_once("```").expect("its end");
        let table = parse_file("db.toml", text).expect("TOML");
        let (config, unknown) = DomainConfig::from_table(table).expect("a domain");
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!((config.disks.len(), config.vifs.len()), (1, 1));
        assert_eq!(config.on_crash, Event::Restart);
        assert!(config.vifs[0].rate.is_some());
    }

    #[test]
    fn both_syntaxes_say_the_same() {
        let (from_xl, unknown) = xl(
            "name = 'web'\ntype='pv'\nkernel='/boot/vmlinuz'\nramdisk='/boot/initrd'\n\
             root='/dev/xvda'\nextra='console=hvc0'\nmemory=512\nmaxmem=1024\nvcpus=2\n\
             maxvcpus=4\ncpus='0-1'\ncpu_weight=512\ntsc_mode=1\n\
             cpuid='host,avx=0'\n\
             disk=['vda,part=2,xvda,w']\nvif=['mac=00:16:3e:00:00:01,bridge=eth0']\n\
             on_crash='preserve'\nuuid='01234567-89ab-cdef-0123-456789abcdef'",
        )
        .expect("a good file");
        assert!(unknown.is_empty(), "{unknown:?}");
        let toml = parse_file(
            "x.toml",
            "name = \"web\"\nkernel = \"/boot/vmlinuz\"\ninitrd = \"/boot/initrd\"\n\
             cmdline = \"root=/dev/xvda console=hvc0\"\nmemory = \"512M\"\nmaxmem = \"1G\"\n\
             vcpus = 2\nmaxvcpus = 4\ncpus = \"0-1\"\ncpu_weight = 512\n\
             tsc_mode = \"always_emulate\"\ncpuid = \"host,avx=0\"\non_crash = \"preserve\"\n\
             uuid = \"0123456789abcdef0123456789abcdef\"\n\
             [[disk]]\nsource = \"vda,part=2\"\ndevice = \"xvda\"\n\
             [[vif]]\nmac = \"00:16:3e:00:00:01\"\nnetwork = \"eth0\"\n",
        )
        .expect("good TOML");
        let (from_toml, unknown) = DomainConfig::from_table(toml).expect("a good table");
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(from_xl, from_toml);
        assert_eq!(from_xl.memory_kib, 512 << 10);
        assert_eq!(from_xl.on_reboot, Event::Restart);
        // What is kept for a restart says it all.
        let kept = serde_json::to_string(&from_xl).expect("JSON");
        let again: DomainConfig = serde_json::from_str(&kept).expect("the same");
        assert_eq!(again, from_xl);
    }

    #[test]
    fn each_bad_thing_is_named() {
        for (more, key) in [
            ("name='7'", "name"),
            ("kernel=5", "kernel"),
            ("memory='x'", "memory"),
            ("memory=0", "memory"),
            ("memory=4", "memory"),
            ("maxmem=32", "maxmem"),
            ("vcpus=33", "vcpus"),
            ("vcpus=0", "vcpus"),
            ("vcpus=4\nmaxvcpus=2", "vcpus"),
            ("type='hvm'", "type"),
            ("builder='hvm'", "builder"),
            ("bootloader='pygrub'", "bootloader"),
            ("disk='vda'", "disk"),
            ("disk=['/dev/sda,xvda,w']", "disk"),
            ("vif=['mac=5']", "vif"),
            ("on_crash='dance'", "on_crash"),
            ("uuid='12'", "uuid"),
            ("pci=['00:01.0']", "pci"),
            ("cmdline='a'\nextra='b'", "cmdline"),
            ("ramdisk='a'\ninitrd='b'", "initrd"),
            ("tsc_mode='native_paravirt'", "tsc_mode"),
            ("tsc_mode=3", "tsc_mode"),
            ("cpuid=['1:ecx=xx']", "cpuid"),
            ("cpuid='host,avx'", "cpuid"),
        ] {
            let error = xl(&format!("{LEAST}{more}")).expect_err(more).to_string();
            assert!(error.starts_with(&format!("{key}: ")), "{more}: {error}");
        }
        for missing in ["name", "kernel", "memory"] {
            let text: String = LEAST
                .lines()
                .filter(|line| !line.starts_with(missing))
                .map(|line| format!("{line}\n"))
                .collect();
            let error = xl(&text).expect_err(missing).to_string();
            assert!(error.starts_with(&format!("{missing}: missing")), "{error}");
        }
    }

    #[test]
    fn a_file_as_xen_tools_write_it_is_understood() {
        let (config, unknown) = xl("#\n# Configuration file for the Xen instance web\n#\n\n#\n#  Kernel + \
             memory size\n#\nkernel      = '/boot/vmlinuz-6.1.0-13-amd64'\n\
             extra       = 'elevator=noop'\nramdisk     = '/boot/initrd.img-6.1.0-13-amd64'\n\n\
             vcpus       = '1'\nmemory      = '512'\n\n\n#\n#  Disk device(s).\n#\n\
             root        = '/dev/xvda2 ro'\ndisk        = [\n\
             \x20                 'phy:web-disk,xvda2,w',\n\
             \x20                 'phy:web-swap,xvda1,w',\n              ]\n\n\n#\n#  Hostname\n#\n\
             name        = 'web'\n\n#\n#  Networking\n#\ndhcp        = 'dhcp'\n\
             vif         = [ 'mac=00:16:3E:AE:31:F9,bridge=xenbr0' ]\n\n#\n#  Behaviour\n#\n\
             on_poweroff = 'destroy'\non_reboot   = 'restart'\non_crash    = 'coredump-restart'\ncap = 0\n")
        .expect("understood");
        assert_eq!(config.cmdline, "root=/dev/xvda2 ro elevator=noop");
        assert_eq!((config.vcpus, config.memory_kib), (1, 512 << 10));
        let disks: Vec<_> = config
            .disks
            .iter()
            .map(|disk| (&*disk.source, &*disk.device))
            .collect();
        assert_eq!(disks, [("web-disk", "xvda2"), ("web-swap", "xvda1")]);
        assert_eq!(config.vifs[0].network, "xenbr0");
        assert_eq!((config.on_crash, config.cap), (Event::Restart, Some(0)));
        assert_eq!(unknown, ["dhcp"]);
    }

    #[test]
    fn unknown_keys_are_named() {
        let (_, unknown) = xl(&format!("{LEAST}colour='red'\npci=[]")).expect("a good file");
        assert_eq!(unknown, ["colour"]);
    }
}
