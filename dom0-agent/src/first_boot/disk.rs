//! Metadata on a disk: NoCloud's `cidata` and OpenStack's ConfigDrive.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Instance;
use super::config::{load, text_of, texts};

/// Looks at the disks that udev found, and mounts the one with metadata for a moment.
pub fn find() -> Option<Instance> {
    for (label, read) in [
        ("cidata", no_cloud as fn(&Path) -> Option<Instance>),
        ("CIDATA", no_cloud),
        ("config-2", config_drive),
        ("CONFIG-2", config_drive),
    ] {
        let device = Path::new("/dev/disk/by-label").join(label);
        if !device.exists() {
            continue;
        }
        let at = Path::new("/run/overcast/metadata");
        let mounted = fs::create_dir_all(at).is_ok()
            && Command::new("mount")
                .args(["-o", "ro"])
                .arg(&device)
                .arg(at)
                .status()
                .is_ok_and(|s| s.success());
        if !mounted {
            say!("first boot: cannot mount {}", device.display());
            continue;
        }
        let instance = read(at);
        let _ = Command::new("umount").arg(at).status();
        if instance.is_some() {
            return instance;
        }
        say!("first boot: {} holds no metadata", device.display());
    }
    None
}

/// `meta-data` (YAML) and `user-data` in the root of a file system.
fn no_cloud(at: &Path) -> Option<Instance> {
    let meta = load(&fs::read_to_string(at.join("meta-data")).ok()?)?;
    let field = |name: &str| text_of(&meta[name]);
    Some(Instance {
        source: "NoCloud",
        id: field("instance-id").unwrap_or_else(|| "nocloud".to_owned()),
        hostname: field("local-hostname").or_else(|| field("hostname")),
        keys: texts(&meta["public-keys"]),
        user_data: fs::read(at.join("user-data")).unwrap_or_default(),
    })
}

/// `openstack/latest` on a ConfigDrive.
fn config_drive(at: &Path) -> Option<Instance> {
    let directory = at.join("openstack/latest");
    let meta = fs::read_to_string(directory.join("meta_data.json")).ok()?;
    let user_data = fs::read(directory.join("user_data")).unwrap_or_default();
    open_stack("ConfigDrive", &meta, user_data)
}

/// What OpenStack's `meta_data.json` says, on a disk or from a service.
pub fn open_stack(source: &'static str, meta: &str, user_data: Vec<u8>) -> Option<Instance> {
    let meta: serde_json::Value = serde_json::from_str(meta).ok()?;
    let field = |name: &str| meta.get(name)?.as_str().map(str::to_owned);
    let keys = meta.get("public_keys").and_then(|keys| keys.as_object());
    Some(Instance {
        source,
        id: field("uuid")?,
        hostname: field("hostname").or_else(|| field("name")),
        keys: keys
            .into_iter()
            .flat_map(|keys| keys.values())
            .filter_map(|key| Some(key.as_str()?.trim().to_owned()))
            .collect(),
        user_data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed when the test ends.
    struct Directory(std::path::PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("overcast-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn no_cloud_is_read() {
        let directory = Directory::new("nocloud");
        assert_eq!(no_cloud(&directory.0), None);
        fs::write(
            directory.0.join("meta-data"),
            "instance-id: i-7\nlocal-hostname: seven\npublic-keys:\n  me: ssh-rsa AAA me\n",
        )
        .unwrap();
        fs::write(directory.0.join("user-data"), "#cloud-config\n").unwrap();
        let instance = no_cloud(&directory.0).unwrap();
        assert_eq!(instance.id, "i-7");
        assert_eq!(instance.hostname.as_deref(), Some("seven"));
        assert_eq!(instance.keys, ["ssh-rsa AAA me"]);
        assert_eq!(instance.user_data, b"#cloud-config\n");
    }

    #[test]
    fn a_config_drive_is_read() {
        let directory = Directory::new("configdrive");
        let latest = directory.0.join("openstack/latest");
        fs::create_dir_all(&latest).unwrap();
        fs::write(
            latest.join("meta_data.json"),
            r#"{"uuid": "83679162", "hostname": "test.novalocal", "public_keys": {"mykey": "ssh-rsa AAA\n"}}"#,
        )
        .unwrap();
        let instance = config_drive(&directory.0).unwrap();
        assert_eq!(instance.id, "83679162");
        assert_eq!(instance.hostname.as_deref(), Some("test.novalocal"));
        assert_eq!(instance.keys, ["ssh-rsa AAA"]);
        assert_eq!(open_stack("x", "{}", vec![]), None);
        assert_eq!(open_stack("x", "[", vec![]), None);
    }
}
