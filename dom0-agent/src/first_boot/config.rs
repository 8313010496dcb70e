//! User data and metadata in the formats of cloud-init, as far as they are understood.

use yaml_rust2::{Yaml, YamlLoader};

/// What a user gave along.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UserData {
    pub hostname: Option<String>,
    pub keys: Vec<String>,
    /// root's password for the console, in clear.
    pub password: Option<String>,
    /// A script with its `#!` line, to be run once.
    pub script: Option<Vec<u8>>,
    /// Keys of the document that nothing is done about.
    pub unknown: Vec<String>,
}

impl UserData {
    /// Understands what it can; the rest is named in [`unknown`](Self::unknown).
    pub fn parse(data: &[u8]) -> Self {
        let mut user = Self::default();
        if data.starts_with(b"#!") {
            user.script = Some(data.to_vec());
            return user;
        }
        let text = String::from_utf8_lossy(data);
        if text.trim().is_empty() {
            return user;
        }
        if text.lines().next().map(str::trim_end) != Some("#cloud-config") {
            user.unknown
                .push("the format (neither #cloud-config nor a script)".to_owned());
            return user;
        }
        let Some(document) = load(&text) else {
            user.unknown.push("the document (no YAML)".to_owned());
            return user;
        };
        let Some(map) = document.as_hash() else {
            return user;
        };
        for (key, value) in map {
            let key = key.as_str().unwrap_or("?");
            match key {
                "hostname" if user.hostname.is_none() => user.hostname = text_of(value),
                "hostname" => {}
                "fqdn" => user.hostname = text_of(value).or(user.hostname.take()),
                "ssh_authorized_keys" => user.keys.extend(texts(value)),
                "password" => user.password = text_of(value),
                "users" => {
                    for entry in value.as_vec().into_iter().flatten() {
                        user.keys.extend(texts(&entry["ssh_authorized_keys"]));
                        user.keys.extend(texts(&entry["ssh-authorized-keys"]));
                    }
                }
                // Said of things that are so anyway.
                "manage_etc_hosts" | "preserve_hostname" | "disable_root" | "growpart"
                | "chpasswd" => {}
                other => user.unknown.push(other.to_owned()),
            }
        }
        user
    }
}

/// The first document of a YAML (or JSON) text.
pub fn load(text: &str) -> Option<Yaml> {
    YamlLoader::load_from_str(text).ok()?.into_iter().next()
}

/// A scalar as text.
pub fn text_of(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The texts of a list, of a map's values (as in NoCloud's public-keys), or the one text.
pub fn texts(value: &Yaml) -> Vec<String> {
    match value {
        Yaml::Array(list) => list.iter().flat_map(texts).collect(),
        Yaml::Hash(map) => map.values().flat_map(texts).collect(),
        Yaml::String(text) => text.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloud_config_gives_name_keys_and_password() {
        let user = UserData::parse(
            b"#cloud-config\nhostname: web\nssh_authorized_keys:\n  - ssh-rsa AAA a\n\
              users:\n  - default\n  - name: x\n    ssh_authorized_keys: [ssh-rsa BBB b]\n\
              password: 1234\nruncmd: [ls]\n",
        );
        assert_eq!(user.hostname.as_deref(), Some("web"));
        assert_eq!(user.keys, ["ssh-rsa AAA a", "ssh-rsa BBB b"]);
        assert_eq!(user.password.as_deref(), Some("1234"));
        assert_eq!(user.unknown, ["runcmd"]);
    }

    #[test]
    fn the_full_name_wins_wherever_it_stands() {
        for text in [
            "#cloud-config\nfqdn: a.b\nhostname: c\n",
            "#cloud-config\nhostname: c\nfqdn: a.b\n",
        ] {
            assert_eq!(
                UserData::parse(text.as_bytes()).hostname.as_deref(),
                Some("a.b")
            );
        }
    }

    #[test]
    fn scripts_are_kept_and_nonsense_is_named() {
        let script = b"#!/bin/sh\necho \xff\n";
        assert_eq!(UserData::parse(script).script.as_deref(), Some(&script[..]));
        assert_eq!(UserData::parse(b"\n"), UserData::default());
        for nonsense in [&b"hello"[..], b"#cloud-config\n\t: [", b"\xff\xfe"] {
            assert!(
                !UserData::parse(nonsense).unknown.is_empty(),
                "{nonsense:?}"
            );
        }
        assert_eq!(
            UserData::parse(b"#cloud-config\n- 1\n"),
            UserData::default()
        );
    }
}
