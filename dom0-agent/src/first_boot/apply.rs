//! Makes the machine what its source says.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use super::Instance;
use super::config::UserData;
use crate::error::{Error, Result};

/// The id of the instance that was set up last.
const INSTANCE: &str = "var/lib/overcast/instance-id";
/// The longest host name, in bytes (`HOST_NAME_MAX`).
const LONGEST_NAME: usize = 64;

/// Applies an instance's metadata under `root` (`/`, but for tests), unless it is done already.
pub fn apply(root: &Path, instance: &Instance, user: &UserData) -> Result<()> {
    let running = root == Path::new("/");
    let stamp = root.join(INSTANCE);
    let before = fs::read_to_string(&stamp).ok();
    if before.as_deref().map(str::trim) == Some(instance.id.as_str()) {
        say!("first boot: was done before");
        return Ok(());
    }
    if before.is_some() && running {
        // The disk is another machine's copy: its identity must not be.
        new_host_keys()?;
    }
    if let Some(name) = &instance.hostname {
        match host_name(name) {
            Some(name) => set_host_name(root, name, running)?,
            None => say!("first boot: {name:?} is no host name"),
        }
    }
    let added = add_keys(root, &instance.keys)?;
    say!("first boot: {added} ssh keys for root");
    if let (Some(password), true) = (&user.password, running) {
        set_password(password)?;
    }
    // Done before the script runs, which may reboot, and which runs once.
    if let Some(directory) = stamp.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&stamp, format!("{}\n", instance.id))?;
    if let (Some(script), true) = (&user.script, running) {
        run_script(root, script)?;
    }
    Ok(())
}

/// The first part of a name, if it is fit to be a host name (RFC 1123).
fn host_name(name: &str) -> Option<&str> {
    let first = name.trim().split('.').next()?;
    let fit = !first.is_empty()
        && first.len() <= LONGEST_NAME
        && !first.starts_with('-')
        && !first.ends_with('-')
        && first
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-');
    fit.then_some(first)
}

fn set_host_name(root: &Path, name: &str, running: bool) -> io::Result<()> {
    say!("first boot: host name {name}");
    fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
    let path = root.join("etc/hosts");
    let mut hosts: String = fs::read_to_string(&path)
        .unwrap_or_default()
        .lines()
        .filter(|line| line.split_whitespace().next() != Some("127.0.1.1"))
        .map(|line| format!("{line}\n"))
        .collect();
    hosts.push_str(&format!("127.0.1.1 {name}\n"));
    fs::write(path, hosts)?;
    if running {
        fs::write("/proc/sys/kernel/hostname", name)?;
    }
    Ok(())
}

/// Adds the keys that are not there yet; how many.
fn add_keys(root: &Path, keys: &[String]) -> io::Result<usize> {
    let directory = root.join("root/.ssh");
    fs::create_dir_all(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
    let path = directory.join("authorized_keys");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let mut known: Vec<&str> = before.lines().collect();
    let old = known.len();
    for key in keys {
        let key = key.trim();
        let fit = !key.is_empty() && !key.starts_with('#') && !key.contains(['\n', '\r', '\0']);
        if fit && !known.contains(&key) {
            known.push(key);
        }
    }
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    for key in &known {
        writeln!(file, "{key}")?;
    }
    Ok(known.len() - old)
}

fn set_password(password: &str) -> Result<()> {
    if password.contains('\n') {
        return Err(Error::Unfit("a password of several lines".to_owned()));
    }
    let mut child = Command::new("chpasswd").stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "root:{password}")?;
    }
    finished("chpasswd", child.wait()?)
}

fn new_host_keys() -> Result<()> {
    say!("first boot: this is a copy of another machine; new ssh host keys");
    for entry in fs::read_dir("/etc/ssh")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    finished("ssh-keygen", Command::new("ssh-keygen").arg("-A").status()?)?;
    finished(
        "systemctl",
        Command::new("systemctl")
            .args(["--no-block", "try-restart", "ssh"])
            .status()?,
    )
}

fn run_script(root: &Path, script: &[u8]) -> Result<()> {
    let path = root.join("var/lib/overcast/user-data");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    say!("first boot: running the user's script");
    let status = Command::new(&path).status()?;
    say!("first boot: the user's script ended with {status}");
    Ok(())
}

fn finished(what: &str, status: std::process::ExitStatus) -> Result<()> {
    if status.success() {
        Ok(())
    } else {
        Err(Error::Unfit(format!("{what}: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_checked() {
        assert_eq!(host_name("web-1.example.org\n"), Some("web-1"));
        for wrong in ["", ".", "-a", "a-", "a b", "a\nb", "ü", &"a".repeat(65)] {
            assert_eq!(host_name(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_instance_is_applied_once() {
        let root = std::env::temp_dir().join(format!("overcast-apply-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(
            root.join("etc/hosts"),
            "127.0.0.1 localhost\n127.0.1.1 overcast\n",
        )
        .unwrap();
        let key = |text: &str| text.to_owned();
        let mut instance = Instance {
            source: "test",
            id: "1".to_owned(),
            hostname: Some("one.example".to_owned()),
            keys: vec![
                key("ssh-rsa A"),
                key("ssh-rsa A"),
                key("two\nlines"),
                key(""),
            ],
            user_data: Vec::new(),
        };
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        apply(&root, &instance, &UserData::default()).unwrap();
        assert_eq!(read("etc/hostname"), "one\n");
        assert_eq!(read("etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 one\n");
        assert_eq!(read("root/.ssh/authorized_keys"), "ssh-rsa A\n");
        let mode = fs::metadata(root.join("root/.ssh/authorized_keys"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        // The same instance: nothing is done over what the user changed since.
        instance.hostname = Some("two".to_owned());
        apply(&root, &instance, &UserData::default()).unwrap();
        assert_eq!(read("etc/hostname"), "one\n");
        // Another one: its name, and its keys besides those that are there.
        instance.id = "2".to_owned();
        instance.keys = vec![key("ssh-rsa B")];
        apply(&root, &instance, &UserData::default()).unwrap();
        assert_eq!(read("etc/hostname"), "two\n");
        assert_eq!(read("root/.ssh/authorized_keys"), "ssh-rsa A\nssh-rsa B\n");
        fs::remove_dir_all(&root).unwrap();
    }
}
