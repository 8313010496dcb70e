//! Disks and network devices of a domain.
//!
//! A disk is, as text, the description of a part of the first layer's disks that the
//! hypervisor's option `vdisk=` takes (`vda,part=2`, `vda,label=web`, the name of a virtual
//! disk), and before, behind or between: `vdev=xvdb` or just `xvdb`, `r`, `ro`, `w`, `rw`,
//! `access=…`, `format=raw`. `target=` may stand before the description.

use overcast_core::switch::MacAddress;
use overcast_core::vdisk::{Spec, device_name, device_number};
use serde::{Deserialize, Serialize};

use super::{ConfigResult, Table, Value, wrong};

/// The hypervisor's own domain, in which its backends are.
pub const BACKEND_DOMAIN: u16 = 0x7ff2;
/// The interval in which a rate is counted, unless it says one: that of libxl, µs.
const RATE_INTERVAL: u64 = 50_000;

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Which part of the first layer's disks: as the hypervisor's `vdisk=` has it.
    pub source: String,
    /// What the guest calls it, like `xvda`.
    pub device: String,
    /// Writes are refused.
    pub read_only: bool,
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vif {
    /// Its address; one is made up if there is none.
    pub mac: Option<String>,
    /// The network: the name of the first layer's card, like `eth0`.
    pub network: String,
    /// The most that it may send: bytes, and the interval for them in µs.
    pub rate: Option<(u64, u64)>,
    /// MTU, if it is not the usual one.
    pub mtu: Option<u16>,
    /// Whether it may send from its own address only.
    #[serde(default = "yes")]
    pub spoofchk: bool,
}

fn yes() -> bool {
    true
}

impl Disk {
    /// The number of the device, which names its directories.
    pub fn number(&self) -> u32 {
        device_number(&self.device).unwrap_or(0)
    }
}

/// A disk without a name yet.
struct Unnamed {
    source: Option<String>,
    device: Option<String>,
    read_only: bool,
}

fn check_source(key: &str, source: &str) -> ConfigResult<String> {
    if source.contains('/') {
        return Err(wrong(
            key,
            format_args!(
                "\"{source}\" is a file or device of Dom0, and disks are served by the hypervisor: \
                 name one of its own (vda, or vda,part=2; see vdisk= in its command line)"
            ),
        ));
    }
    let spec = Spec::parse(source).ok_or_else(|| {
        wrong(
            key,
            format_args!(
                "\"{source}\" describes no disk: expected like vda, vda,part=2, vda,label=web \
                 or vda,start=1G,size=2G"
            ),
        )
    })?;
    Ok(spec.to_string())
}

fn check_device(key: &str, device: &str) -> ConfigResult<String> {
    match device_number(device) {
        Some(_) => Ok(device.to_owned()),
        None => Err(wrong(
            key,
            format_args!("\"{device}\" is no disk of a PV guest: expected like xvda or xvdb1"),
        )),
    }
}

fn access(key: &str, text: &str) -> ConfigResult<bool> {
    match text {
        "r" | "ro" => Ok(true),
        "w" | "rw" => Ok(false),
        _ => Err(wrong(
            key,
            format_args!("access \"{text}\" is not known: r or w"),
        )),
    }
}

fn disk_text(key: &str, text: &str) -> ConfigResult<Unnamed> {
    let mut disk = Unnamed {
        source: None,
        device: None,
        read_only: false,
    };
    let mut source: Vec<&str> = Vec::new();
    for item in text.split(',').map(str::trim) {
        match item.split_once('=') {
            Some(("vdev" | "dev", device)) => disk.device = Some(check_device(key, device)?),
            Some(("access" | "mode", how)) => disk.read_only = access(key, how)?,
            Some(("format", "raw")) => {}
            Some(("format", format)) => {
                return Err(wrong(
                    key,
                    format_args!("format {format}: only raw is served"),
                ));
            }
            Some(("target", target)) => source.push(target),
            Some(("backendtype", "phy")) => {}
            Some((
                name @ ("script" | "backend" | "backendtype" | "devtype" | "direct-io-safe"),
                _,
            )) => {
                return Err(wrong(
                    key,
                    format_args!(
                        "{name}= is for backends in a domain; the hypervisor serves disks"
                    ),
                ));
            }
            None if item == "raw" || item.is_empty() => {}
            None if item == "cdrom" || item == "devtype=cdrom" => {
                return Err(wrong(key, "PV guests have no CD drives"));
            }
            None if matches!(item, "r" | "w" | "rw") => disk.read_only = access(key, item)?,
            None if device_number(item).is_some() && disk.device.is_none() => {
                disk.device = Some(item.to_owned());
            }
            _ => source.push(item.strip_prefix("phy:").unwrap_or(item)),
        }
    }
    if !source.is_empty() {
        disk.source = Some(check_source(key, &source.join(","))?);
        if source.contains(&"ro") {
            disk.read_only = true;
        }
    }
    Ok(disk)
}

fn text<'v>(key: &str, value: &'v Value) -> ConfigResult<&'v str> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(wrong(key, "expected a text")),
    }
}

fn disk_table(key: &str, table: &Table) -> ConfigResult<Unnamed> {
    let mut disk = Unnamed {
        source: None,
        device: None,
        read_only: false,
    };
    for (name, value) in table {
        let key = format!("{key}.{name}");
        match (name.as_str(), value) {
            ("source" | "target", value) => {
                disk.source = Some(check_source(&key, text(&key, value)?)?);
            }
            ("device" | "vdev", value) => {
                disk.device = Some(check_device(&key, text(&key, value)?)?);
            }
            ("read_only", Value::Flag(read_only)) => disk.read_only = *read_only,
            ("access", value) => disk.read_only = access(&key, text(&key, value)?)?,
            _ => {
                return Err(wrong(
                    &key,
                    "not known: a disk has source, device, read_only (true or false)",
                ));
            }
        }
    }
    Ok(disk)
}

/// The disks of a configuration, or of the command line, all with names.
pub fn disks(key: &str, values: &[Value]) -> ConfigResult<Vec<Disk>> {
    let mut unnamed = Vec::new();
    for value in values {
        unnamed.push(match value {
            Value::Text(text) => disk_text(key, text)?,
            Value::Table(table) => disk_table(key, table)?,
            _ => return Err(wrong(key, "expected a list of texts or tables")),
        });
    }
    let mut taken: Vec<String> = Vec::new();
    for device in unnamed.iter().filter_map(|disk| disk.device.clone()) {
        if taken.contains(&device) {
            return Err(wrong(key, format_args!("there are two disks {device}")));
        }
        taken.push(device);
    }
    let mut disks = Vec::new();
    for disk in unnamed {
        let source = disk
            .source
            .ok_or_else(|| wrong(key, "a disk without its source, like vda,part=2"))?;
        let device = match disk.device {
            Some(device) => device,
            None => {
                let free = (0..).map(device_name).find(|name| !taken.contains(name));
                let free = free.unwrap_or_default();
                taken.push(free.clone());
                free
            }
        };
        disks.push(Disk {
            source,
            device,
            read_only: disk.read_only,
        });
    }
    Ok(disks)
}

/// `10Mb/s`, `1GB/s@20ms`: bytes, and µs for them.
fn rate(key: &str, text: &str) -> ConfigResult<(u64, u64)> {
    let bad = || {
        wrong(
            key,
            format_args!("rate \"{text}\" is not understood: expected like 10Mb/s or 100KB/s@20ms"),
        )
    };
    let (speed, interval) = match text.split_once('@') {
        Some((speed, interval)) => (speed, Some(interval)),
        None => (text, None),
    };
    let speed = speed.strip_suffix("/s").ok_or_else(bad)?;
    let (speed, bits) = match (speed.strip_suffix('b'), speed.strip_suffix('B')) {
        (Some(speed), _) => (speed, 8),
        (None, Some(speed)) => (speed, 1),
        (None, None) => return Err(bad()),
    };
    let (number, factor) = match speed.as_bytes().last() {
        Some(b'K') => (&speed[..speed.len() - 1], 1000),
        Some(b'M') => (&speed[..speed.len() - 1], 1_000_000),
        Some(b'G') => (&speed[..speed.len() - 1], 1_000_000_000),
        _ => (speed, 1),
    };
    let interval = match interval {
        None => Some(RATE_INTERVAL),
        Some(interval) => {
            let digits = interval.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let unit = match &interval[digits.len()..] {
                "us" => 1,
                "ms" => 1000,
                "s" => 1_000_000,
                _ => return Err(bad()),
            };
            digits
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(unit))
        }
    };
    let interval = interval.filter(|&us| us > 0 && us <= u64::from(u32::MAX));
    let interval = interval.ok_or_else(bad)?;
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .map(|number| u128::from(number) * u128::from(interval) / bits / 1_000_000)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|&bytes| bytes > 0)
        .ok_or_else(bad)?;
    Ok((bytes, interval))
}

fn vif_item(vif: &mut Vif, key: &str, name: &str, value: &str) -> ConfigResult<()> {
    match name {
        "mac" => {
            let mac = MacAddress::parse(value).filter(|mac| mac.is_station());
            let mac = mac.ok_or_else(|| {
                wrong(
                    key,
                    format_args!("\"{value}\" is no address of a station, like 00:16:3e:01:02:03"),
                )
            })?;
            vif.mac = Some(mac.to_string());
        }
        "bridge" | "network" => {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if value.is_empty() || value.len() > 32 || !value.chars().all(good) {
                return Err(wrong(key, format_args!("\"{value}\" is no network's name")));
            }
            vif.network = value.to_owned();
        }
        "rate" => vif.rate = Some(rate(key, value)?),
        "mtu" => {
            let mtu = value.parse().ok().filter(|mtu| (68..=9000).contains(mtu));
            let mtu = mtu.ok_or_else(|| wrong(key, "an MTU is 68 to 9000"))?;
            vif.mtu = Some(mtu);
        }
        "spoofchk" => {
            vif.spoofchk = match value {
                "on" | "true" => true,
                "off" | "false" => false,
                _ => return Err(wrong(key, format_args!("spoofchk \"{value}\": on or off"))),
            }
        }
        // What says nothing here.
        "type" if matches!(value, "vif" | "netfront") => {}
        "script" | "vifname" | "ip" | "backend" | "model" | "gatewaydev" | "type" => {
            return Err(wrong(
                key,
                format_args!(
                    "{name}= is for backends in a domain; the hypervisor's switch has mac, network, rate"
                ),
            ));
        }
        _ => {
            return Err(wrong(
                key,
                format_args!(
                    "\"{name}\" is not known: a network device has mac, network (or bridge), rate, mtu, \
                     spoofchk"
                ),
            ));
        }
    }
    Ok(())
}

/// The network devices of a configuration, or of the command line.
pub fn vifs(key: &str, values: &[Value]) -> ConfigResult<Vec<Vif>> {
    let mut vifs = Vec::new();
    for value in values {
        let mut vif = Vif {
            mac: None,
            network: "eth0".to_owned(),
            rate: None,
            mtu: None,
            spoofchk: true,
        };
        match value {
            Value::Text(items) => {
                for item in items
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                {
                    // As on the command line: the network alone.
                    let (name, value) = item.split_once('=').unwrap_or(("network", item));
                    vif_item(&mut vif, key, name, value)?;
                }
            }
            Value::Table(table) => {
                for (name, value) in table {
                    let value = match value {
                        Value::Text(text) => text.clone(),
                        Value::Number(number) => number.to_string(),
                        Value::Flag(flag) => flag.to_string(),
                        _ => return Err(wrong(&format!("{key}.{name}"), "expected a text")),
                    };
                    vif_item(&mut vif, key, name, &value)?;
                }
            }
            _ => return Err(wrong(key, "expected a list of texts or tables")),
        }
        vifs.push(vif);
    }
    let mut addresses: Vec<_> = vifs.iter().filter_map(|vif| vif.mac.as_ref()).collect();
    addresses.sort();
    if addresses.windows(2).any(|two| two[0] == two[1]) {
        return Err(wrong(key, "two network devices with one address"));
    }
    Ok(vifs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(items: &str) -> ConfigResult<Disk> {
        disks("disk", &[Value::Text(items.to_owned())]).map(|mut disks| disks.remove(0))
    }

    #[test]
    fn disks_are_described_in_xls_ways_and_in_ours() {
        let expected = |source: &str, device: &str, read_only| Disk {
            source: source.to_owned(),
            device: device.to_owned(),
            read_only,
        };
        for (text, wanted) in [
            ("vda,part=2", expected("vda,part=2", "xvda", false)),
            ("vda,part=2,xvdb,r", expected("vda,part=2", "xvdb", true)),
            (
                "format=raw,vdev=xvdc,access=ro,target=web",
                expected("web", "xvdc", true),
            ),
            ("phy:vdb,xvda1,w", expected("vdb", "xvda1", false)),
            ("vdb,raw,xvda,rw", expected("vdb", "xvda", false)),
            ("vda,label=x,ro", expected("vda,label=x,ro", "xvda", true)),
        ] {
            assert_eq!(disk(text), Ok(wanted), "{text}");
        }
        assert_eq!(disk("vda").expect("a disk").number(), 51712);
        for (text, why) in [
            ("/dev/vg/web,raw,xvda,w", "device of Dom0"),
            ("vda,format=qcow2", "only raw"),
            ("vda,vdev=hda", "hda"),
            ("vda,part=0", "describes no disk"),
            ("xvda,w", "without its source"),
            ("vda,access=x", "r or w"),
            ("vda,script=block-iscsi", "script="),
        ] {
            let error = disk(text).expect_err(text).to_string();
            assert!(
                error.starts_with("disk: ") && error.contains(why),
                "{error}"
            );
        }
    }

    #[test]
    fn disks_without_a_name_get_the_next_and_none_has_another_ones() {
        let texts = ["vdb,vdev=xvda", "vdc", "vdd"].map(|text| Value::Text(text.to_owned()));
        let names: Vec<_> = disks("disk", &texts)
            .expect("three disks")
            .into_iter()
            .map(|disk| disk.device)
            .collect();
        assert_eq!(names, ["xvda", "xvdb", "xvdc"]);
        let twice = ["vdb,xvda", "vdc,xvda"].map(|text| Value::Text(text.to_owned()));
        assert!(disks("disk", &twice).is_err());
    }

    #[test]
    fn network_devices_have_an_address_a_network_and_a_rate() {
        let vif = |text: &str| vifs("vif", &[Value::Text(text.to_owned())]);
        let one = vif("mac=00:16:3E:01:02:03,bridge=xenbr1,rate=10Mb/s").expect("a vif");
        assert_eq!(one[0].mac.as_deref(), Some("00:16:3e:01:02:03"));
        assert_eq!(one[0].network, "xenbr1");
        assert_eq!(one[0].rate, Some((62_500, 50_000)));
        assert_eq!(vif("").expect("a vif")[0].network, "eth0");
        assert!(one[0].spoofchk && !vif("spoofchk=off").expect("a vif")[0].spoofchk);
        assert_eq!(
            vif("rate=1GB/s@20ms").expect("a vif")[0].rate,
            Some((20_000_000, 20_000))
        );
        for (text, why) in [
            ("mac=01:00:00:00:00:00", "station"),
            ("mac=x", "no address"),
            ("rate=10", "rate"),
            ("rate=0Mb/s", "rate"),
            ("rate=99999999999999999999GB/s", "rate"),
            ("script=vif-route", "script="),
            ("spoofchk=maybe", "on or off"),
            ("colour=red", "not known"),
        ] {
            let error = vif(text).expect_err(text).to_string();
            assert!(error.contains(why), "{error}");
        }
        let same = ["mac=00:16:3e:00:00:01", "mac=00:16:3e:00:00:01"];
        let same = same.map(|text| Value::Text(text.to_owned()));
        assert!(vifs("vif", &same).is_err());
    }
}
