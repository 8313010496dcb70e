//! A domain's configuration on its way: libxl's JSON, which Debian's `xl` reads and writes, and
//! what is known of a running domain from the store.
//!
//! The keys are those of `libxl_domain_config` (`tools/libs/light/libxl_types.idl` of Xen).
//! What a PV guest with disks and network devices needs is taken, the rest left out. What libxl
//! has no key for stands below `overcast`, which `xl` passes over: `cpu` (the CPU that was asked
//! for), `cpuid` (what of its features was otherwise), `cpu_seen` ([`Saved::seen`]).

use serde_json::{Map, Value, json};

use crate::config::DomainConfig;
use crate::config::devices::{BACKEND_DOMAIN, Disk, Vif};
use crate::config::domain::{Event, TscMode, check_name};
use crate::control::{DomainInfo, Share};
use crate::error::{Error, Result};
use crate::store::Store;

/// A domain to be restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// What it is.
    pub config: DomainConfig,
    /// Its UUID as text.
    pub uuid: String,
    /// CPU features that its programs may have seen beside its policy ([`crate::cpu::seen`]), by
    /// their names.
    pub seen: Vec<String>,
}

/// The most names of features that are taken.
const MOST_SEEN: usize = 1024;

fn event(event: Event) -> &'static str {
    match event {
        Event::Destroy => "destroy",
        Event::Restart => "restart",
        Event::Preserve => "preserve",
    }
}

/// Writes it as libxl does.
pub fn to_json(saved: &Saved) -> String {
    let config = &saved.config;
    let disks: Vec<Value> = config
        .disks
        .iter()
        .map(|disk| {
            json!({
                "backend_domid": BACKEND_DOMAIN,
                "pdev_path": disk.source,
                "vdev": disk.device,
                "backend": "phy",
                "format": "raw",
                "readwrite": i32::from(!disk.read_only),
            })
        })
        .collect();
    let nics: Vec<Value> = (0..)
        .zip(&config.vifs)
        .map(|(number, vif): (u32, _)| {
            let mut nic = Map::new();
            nic.insert("backend_domid".into(), json!(BACKEND_DOMAIN));
            nic.insert("devid".into(), json!(number));
            nic.insert("bridge".into(), json!(vif.network));
            nic.insert("nictype".into(), json!("vif"));
            if let Some(mac) = &vif.mac {
                nic.insert("mac".into(), json!(mac));
            }
            if let Some(mtu) = vif.mtu {
                nic.insert("mtu".into(), json!(mtu));
            }
            if let Some((bytes, interval)) = vif.rate {
                nic.insert("rate_bytes_per_interval".into(), json!(bytes));
                nic.insert("rate_interval_usecs".into(), json!(interval));
            }
            // libxl has none, and does not mind.
            if !vif.spoofchk {
                nic.insert("spoofchk".into(), json!(false));
            }
            Value::Object(nic)
        })
        .collect();
    let mut sched = Map::new();
    if let Some(weight) = config.weight {
        sched.insert("weight".into(), json!(weight));
    }
    if let Some(cap) = config.cap {
        sched.insert("cap".into(), json!(cap));
    }
    let mut build = json!({
        "max_vcpus": config.max_vcpus,
        "avail_vcpus": (0..config.vcpus).collect::<Vec<_>>(),
        "max_memkb": config.max_memory_kib,
        "target_memkb": config.memory_kib,
        "sched_params": sched,
        "kernel": config.kernel.display().to_string(),
        "cmdline": config.cmdline,
        "type.pv": {},
    });
    if let (Some(initrd), Some(build)) = (&config.initrd, build.as_object_mut()) {
        build.insert("ramdisk".into(), json!(initrd.display().to_string()));
    }
    if config.tsc_mode != TscMode::Default {
        build["tsc_mode"] = json!(config.tsc_mode.name());
    }
    let mut own = Map::new();
    if let Some(cpu) = &config.cpu {
        own.insert("cpu".into(), json!(cpu));
    }
    if let Some(cpuid) = &config.cpuid {
        own.insert("cpuid".into(), json!(cpuid));
    }
    if !saved.seen.is_empty() {
        own.insert("cpu_seen".into(), json!(saved.seen));
    }
    json!({
        "overcast": own,
        "c_info": {
            "type": "pv",
            "name": config.name,
            "uuid": saved.uuid,
        },
        "b_info": build,
        "disks": disks,
        "nics": nics,
        "on_poweroff": event(config.on_poweroff),
        "on_reboot": event(config.on_reboot),
        "on_crash": event(config.on_crash),
    })
    .to_string()
}

/// Reads libxl's.
///
/// # Errors
/// `Usage` with the key that is missing, or makes no sense.
pub fn from_json(text: &str) -> Result<Saved> {
    let wrong =
        |key: &str, why: &str| Error::Usage(format!("the saved configuration: {key}: {why}"));
    let root: Value =
        serde_json::from_str(text).map_err(|error| wrong("JSON", &error.to_string()))?;
    let (about, build) = (&root["c_info"], &root["b_info"]);
    // libxl's default type is PV; others say so.
    if let Some(kind) = about["type"].as_str().filter(|kind| *kind != "pv") {
        return Err(wrong(
            "c_info.type",
            &format!("{kind} guests do not run here, PV ones do"),
        ));
    }
    let name = about["name"].as_str().unwrap_or_default();
    check_name(name).map_err(|why| wrong("c_info.name", why))?;
    let uuid = about["uuid"].as_str().unwrap_or_default();
    if crate::config::domain::parse_uuid(uuid).is_none() {
        return Err(wrong("c_info.uuid", "expected a UUID"));
    }
    let most = u64::from(crate::config::domain::MAX_VCPUS);
    let max_vcpus = build["max_vcpus"].as_u64().unwrap_or(1);
    if !(1..=most).contains(&max_vcpus) {
        return Err(wrong("b_info.max_vcpus", &format!("expected 1 to {most}")));
    }
    let vcpus = match build["avail_vcpus"].as_array() {
        Some(online) => (online.len() as u64).clamp(1, max_vcpus),
        None => 1,
    };
    let memory = |key: &str| build[key].as_u64().filter(|kib| (1..1 << 40).contains(kib));
    let Some(max_memory_kib) = memory("max_memkb").or(memory("target_memkb")) else {
        return Err(wrong("b_info.max_memkb", "expected KiB"));
    };
    let memory_kib = memory("target_memkb")
        .unwrap_or(max_memory_kib)
        .min(max_memory_kib);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut disks = Vec::new();
    for disk in root["disks"].as_array().into_iter().flatten() {
        if disk["pdev_path"].as_str().is_none() {
            continue;
        }
        disks.push(Disk {
            source: text(&disk["pdev_path"]),
            device: text(&disk["vdev"]),
            read_only: disk["readwrite"].as_u64().unwrap_or(0) == 0,
        });
    }
    let mut vifs = Vec::new();
    for nic in root["nics"].as_array().into_iter().flatten() {
        let rate = (
            nic["rate_bytes_per_interval"].as_u64().unwrap_or(0),
            nic["rate_interval_usecs"].as_u64().unwrap_or(0),
        );
        vifs.push(Vif {
            mac: nic["mac"].as_str().map(str::to_owned),
            network: text(&nic["bridge"]),
            rate: (rate.0 != 0 && rate.1 != 0).then_some(rate),
            mtu: nic["mtu"].as_u64().and_then(|mtu| u16::try_from(mtu).ok()),
            spoofchk: nic["spoofchk"].as_bool().unwrap_or(true),
        });
    }
    let event = |key: &str, otherwise| match root[key].as_str() {
        Some("destroy") => Event::Destroy,
        Some("restart" | "rename_restart" | "soft_reset") => Event::Restart,
        Some("preserve") => Event::Preserve,
        _ => otherwise,
    };
    let small = |value: &Value| value.as_u64().and_then(|value| u16::try_from(value).ok());
    let own = &root["overcast"];
    let seen = own["cpu_seen"].as_array().into_iter().flatten();
    let seen = seen.filter_map(Value::as_str).map(str::to_owned);
    Ok(Saved {
        uuid: uuid.to_ascii_lowercase(),
        seen: seen.take(MOST_SEEN).collect(),
        config: DomainConfig {
            name: name.to_owned(),
            uuid: Some(uuid.to_ascii_lowercase()),
            kernel: text(&build["kernel"]).into(),
            initrd: build["ramdisk"].as_str().map(Into::into),
            cmdline: text(&build["cmdline"]),
            memory_kib,
            max_memory_kib,
            vcpus: vcpus as u32,
            max_vcpus: max_vcpus as u32,
            cpus: Vec::new(),
            cpu: own["cpu"].as_str().map(str::to_owned),
            cpuid: own["cpuid"].as_str().map(str::to_owned),
            tsc_mode: build["tsc_mode"]
                .as_str()
                .and_then(TscMode::by_name)
                .unwrap_or_default(),
            weight: small(&build["sched_params"]["weight"]).filter(|&weight| weight != 0),
            cap: small(&build["sched_params"]["cap"]),
            disks,
            vifs,
            on_poweroff: event("on_poweroff", Event::Destroy),
            on_reboot: event("on_reboot", Event::Restart),
            on_crash: event("on_crash", Event::Destroy),
        },
    })
}

/// What a running domain is, from the hypervisor and the store.
pub fn of_domain(store: &mut Store, info: &DomainInfo, share: Share) -> Result<Saved> {
    let domain = info.id;
    let home = format!("/local/domain/{domain}");
    let name = store
        .domain_name(domain)?
        .unwrap_or_else(|| format!("domain-{domain}"));
    let number = |store: &mut Store, path: String| -> Result<Option<u64>> {
        Ok(store.read_text(&path)?.and_then(|value| value.parse().ok()))
    };
    let target = number(store, format!("{home}/memory/target"))?.unwrap_or(info.memory_kib);
    let max = number(store, format!("{home}/memory/static-max"))?.unwrap_or(target);
    let mut online = 0;
    for vcpu in 0..info.max_vcpus {
        let path = format!("{home}/cpu/{vcpu}/availability");
        let state = store.read_text(&path)?;
        online += u32::from(state.as_deref() != Some("offline"));
    }
    let vm = format!("/vm/{}", info.uuid);
    let image = |store: &mut Store, key: &str| store.read_text(&format!("{vm}/image/{key}"));
    let mut disks = Vec::new();
    for (_, backend) in devices(store, domain, "vbd")? {
        let text = |store: &mut Store, key: &str| -> Result<String> {
            Ok(store
                .read_text(&format!("{backend}/{key}"))?
                .unwrap_or_default())
        };
        disks.push(Disk {
            source: text(store, "params")?,
            device: text(store, "dev")?,
            read_only: text(store, "mode")? == "r",
        });
    }
    let mut vifs = Vec::new();
    for (_, backend) in devices(store, domain, "vif")? {
        let text = |store: &mut Store, key: &str| store.read_text(&format!("{backend}/{key}"));
        let rate = text(store, "rate")?;
        let rate = rate.as_deref().and_then(|rate| rate.split_once(','));
        vifs.push(Vif {
            mac: text(store, "mac")?,
            network: text(store, "bridge")?.unwrap_or_default(),
            rate: rate
                .and_then(|(bytes, interval)| Some((bytes.parse().ok()?, interval.parse().ok()?))),
            mtu: text(store, "mtu")?.and_then(|mtu| mtu.parse().ok()),
            spoofchk: text(store, "spoofchk")?.as_deref() != Some("0"),
        });
    }
    // What is not in the store the daemon was told when it was made, or came.
    let known = crate::daemon::remembered(&info.uuid).map(|(config, _)| config);
    let known = known.as_ref();
    let end = |event: fn(&DomainConfig) -> Event, otherwise| known.map_or(otherwise, event);
    Ok(Saved {
        uuid: info.uuid.clone(),
        seen: Vec::new(),
        config: DomainConfig {
            name,
            uuid: Some(info.uuid.clone()),
            kernel: image(store, "kernel")?.unwrap_or_default().into(),
            initrd: image(store, "ramdisk")?.map(Into::into),
            cmdline: image(store, "cmdline")?.unwrap_or_default(),
            memory_kib: target.min(max),
            max_memory_kib: max,
            vcpus: online.clamp(1, info.max_vcpus.max(1)),
            max_vcpus: info.max_vcpus,
            cpus: Vec::new(),
            cpu: known.and_then(|config| config.cpu.clone()),
            cpuid: known.and_then(|config| config.cpuid.clone()),
            tsc_mode: known.map_or_else(TscMode::default, |config| config.tsc_mode),
            weight: Some(share.weight).filter(|&weight| weight != 0),
            cap: Some(share.cap),
            disks,
            vifs,
            on_poweroff: end(|config| config.on_poweroff, Event::Destroy),
            on_reboot: end(|config| config.on_reboot, Event::Restart),
            on_crash: end(|config| config.on_crash, Event::Destroy),
        },
    })
}

/// A domain's devices of a kind: number and the backend's directory, in order.
fn devices(store: &mut Store, domain: u16, kind: &str) -> Result<Vec<(u32, String)>> {
    let home = format!("/local/domain/{domain}/device/{kind}");
    let names = match store.list(&home) {
        Err(Error::Store { error, .. }) if error == "ENOENT" => Vec::new(),
        other => other?,
    };
    let mut found = Vec::new();
    for name in names {
        let backend = store.read_text(&format!("{home}/{name}/backend"))?;
        if let (Ok(number), Some(backend)) = (name.parse(), backend) {
            found.push((number, backend));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        from_json(
            r#"{"c_info": {"type": "pv", "name": "web", "uuid": "01234567-89ab-cdef-0123-456789abcdef"},
                "b_info": {"max_vcpus": 4, "avail_vcpus": [0, 1], "numa_placement": "True",
                  "max_memkb": 98304, "target_memkb": 65536, "kernel": "/vmlinux", "ramdisk": "/initrd",
                  "cmdline": "console=hvc0", "sched_params": {"weight": 300}, "type.pv": {}},
                "disks": [{"pdev_path": "vda,part=2", "vdev": "xvda", "format": "raw", "readwrite": 1}],
                "nics": [{"devid": 0, "mac": "00:16:3e:01:02:03", "bridge": "eth0"}],
                "on_reboot": "restart", "on_crash": "preserve"}"#,
        )
        .expect("a configuration of xl")
    }

    #[test]
    fn xls_configuration_is_understood() {
        let Saved { config, uuid, seen } = saved();
        assert_eq!((seen.len(), config.cpu.as_deref()), (0, None));
        assert_eq!(uuid, "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!((config.vcpus, config.max_vcpus), (2, 4));
        assert_eq!((config.memory_kib, config.max_memory_kib), (65536, 98304));
        assert_eq!(config.disks[0].device, "xvda");
        assert!(!config.disks[0].read_only);
        assert_eq!(config.vifs[0].network, "eth0");
        assert_eq!(config.on_crash, Event::Preserve);
        assert_eq!(config.weight, Some(300));
    }

    #[test]
    fn configurations_come_back() {
        let mut saved = saved();
        assert_eq!(from_json(&to_json(&saved)).expect("our own"), saved);
        saved.seen = vec!["clwb".to_owned(), "3dnow".to_owned()];
        saved.config.cpu = Some("x86-64-v2".to_owned());
        saved.config.cpuid = Some("host,avx=0".to_owned());
        saved.config.tsc_mode = TscMode::Native;
        saved.config.vifs[0].spoofchk = false;
        assert_eq!(from_json(&to_json(&saved)).expect("our own"), saved);
    }

    #[test]
    fn wrong_ones_name_the_key() {
        for (text, key) in [
            ("{", "JSON"),
            ("{}", "c_info.name"),
            (r#"{"c_info": {"type": "hvm"}}"#, "c_info.type"),
            (r#"{"c_info": {"name": "a"}}"#, "c_info.uuid"),
            (
                r#"{"c_info": {"name": "a", "uuid": "01234567-89ab-cdef-0123-456789abcdef"}}"#,
                "b_info.max_memkb",
            ),
            (
                r#"{"c_info": {"name": "a", "uuid": "01234567-89ab-cdef-0123-456789abcdef"}, "b_info": {"max_vcpus": 999}}"#,
                "b_info.max_vcpus",
            ),
        ] {
            let error = from_json(text).expect_err("wrong").to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
