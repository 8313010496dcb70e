//! A running machine: what it says, and what is typed to it.

use crate::artefacts;
use crate::machine::Machine;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a machine says when it has died, wherever it was.
const FATAL: &[&str] = &[
    "Kernel panic - not syncing",
    "panicked at",
    "Panic on CPU",
    "FATAL TRAP",
    "domain_crash called",
];

/// A machine that runs in QEMU. Dropping it ends it.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    log: File,
    /// All that the machine has said, without carriage returns.
    text: String,
    /// How much of it has been looked at by the waits.
    seen: usize,
    /// Bytes of an incomplete character.
    partial: Vec<u8>,
    ended: bool,
    /// Whether signs of death fail a wait at once.
    pub fatal_signs: bool,
    /// How long a wait may take before the machine counts as hung.
    pub patience: Duration,
}

impl Session {
    /// Starts a machine; what it says is also written to `build/logs/NAME.log`.
    pub fn start(machine: &Machine, name: &str) -> Result<Self, String> {
        let mut command = machine.command()?;
        let path = artefacts::log(name)?;
        let mut log = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let _ = writeln!(log, "# {command:?}");
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("qemu-system-x86_64 cannot be started: {e}"))?;
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().ok_or("no output of QEMU")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = stdout.read(&mut buffer) {
                let Some(bytes) = buffer.get(..n) else { break };
                if bytes.is_empty() || sender.send(bytes.to_vec()).is_err() {
                    break;
                }
            }
        });
        let patience = std::env::var("OVERCAST_PATIENCE")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(300);
        Ok(Self {
            child,
            stdin,
            output,
            log,
            text: String::new(),
            seen: 0,
            partial: Vec::new(),
            ended: false,
            fatal_signs: true,
            patience: Duration::from_secs(patience),
        })
    }

    /// All that the machine has said until now, without carriage returns.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn receive(&mut self, bytes: &[u8]) {
        let _ = self.log.write_all(bytes);
        self.partial.extend(bytes.iter().filter(|&&b| b != b'\r'));
        let good = match std::str::from_utf8(&self.partial) {
            Ok(_) => self.partial.len(),
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => self.partial.len(),
        };
        let rest = self.partial.split_off(good);
        self.text.push_str(&String::from_utf8_lossy(&self.partial));
        self.partial = rest;
    }

    /// Waits until the machine says one of the texts, and returns which (its
    /// index). Only what comes after the last wait counts.
    pub fn wait_for_any(&mut self, wanted: &[&str]) -> Result<usize, String> {
        let deadline = Instant::now() + self.patience;
        loop {
            let new = self.text.get(self.seen..).unwrap_or("");
            let first = wanted
                .iter()
                .enumerate()
                .filter_map(|(i, w)| new.find(w).map(|at| (at, at + w.len(), i)))
                .min();
            let fatal = FATAL
                .iter()
                .filter(|_| self.fatal_signs)
                .filter_map(|sign| new.find(sign).map(|at| (at, *sign)))
                .min();
            match (first, fatal) {
                (Some((at, end, which)), fatal) if fatal.is_none_or(|(f, _)| at <= f) => {
                    self.seen += end;
                    return Ok(which);
                }
                (_, Some((_, sign))) => {
                    // What it says next tells why.
                    self.drain(Duration::from_secs(5));
                    return Err(self.failure(&format!("\"{sign}\" while waiting for {wanted:?}")));
                }
                _ => {}
            }
            if self.ended {
                return Err(self.failure(&format!("the machine ended before it said {wanted:?}")));
            }
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.receive(&bytes),
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(&format!("hung: it never said {wanted:?}")));
                }
            }
        }
    }

    /// Waits until the machine says a text.
    pub fn wait_for(&mut self, wanted: &str) -> Result<(), String> {
        self.wait_for_any(&[wanted]).map(|_| ())
    }

    /// The rest of the line behind what was last waited for.
    pub fn rest_of_line(&mut self) -> Result<String, String> {
        let start = self.seen;
        self.wait_for("\n")?;
        let line = self.text.get(start..self.seen).unwrap_or("");
        Ok(line.trim_end().to_owned())
    }

    /// Reads for as long as something comes, but at most for `limit`.
    fn drain(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while let Ok(bytes) = self
            .output
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.receive(&bytes);
        }
    }

    /// Types a line.
    pub fn send_line(&mut self, line: &str) -> Result<(), String> {
        self.send(format!("{line}\n").as_bytes())
    }

    /// Types bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("the machine has no input")?;
        stdin
            .write_all(bytes)
            .and_then(|()| stdin.flush())
            .map_err(|e| format!("the machine takes no input: {e}"))
    }

    /// Runs a command in the guest's shell, and returns what it prints. Fails if
    /// the command does.
    pub fn shell(&mut self, command: &str) -> Result<String, String> {
        // The marks are spelled differently in what is typed, which is echoed.
        self.send_line(&format!(
            "echo =BEG\"\"IN=; {command}; echo \"=$?=EN\"\"D=\""
        ))?;
        self.wait_for("=BEGIN=\n")?;
        let start = self.seen;
        self.wait_for("=END=")?;
        let text = self.text.get(start..self.seen).unwrap_or("");
        let (output, status) = text
            .trim_end_matches("=END=")
            .rsplit_once('=')
            .ok_or("no status in the shell's answer")?;
        let output = output.trim_end().to_owned();
        if status == "0" {
            Ok(output)
        } else {
            Err(self.failure(&format!("`{command}` ended with status {status}: {output}")))
        }
    }

    /// Waits until QEMU ends by itself, as it does on poweroff and, started so,
    /// on reboot.
    pub fn wait_exit(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        while !self.ended {
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.receive(&bytes),
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure("hung: it was to end"));
                }
            }
        }
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failure(&format!("QEMU failed: {status}")))
        }
    }

    /// CPU time that QEMU used on the host so far, in seconds.
    pub fn cpu_time(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        // Behind the name, which may hold anything: utime and stime, in 1/100 s (proc(5)).
        let words = text.rsplit(')').next().unwrap_or("").split_whitespace();
        let ticks = words.skip(11).take(2).map(|word| word.parse::<f64>());
        let ticks: f64 = ticks.sum::<Result<_, _>>().map_err(|e| e.to_string())?;
        Ok(ticks / 100.0)
    }

    /// Has QEMU end in good order, as it does when asked by a signal.
    pub fn stop(mut self) -> Result<(), String> {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").arg(&id).status();
        asked.map_err(|e| format!("kill cannot be started: {e}"))?;
        self.child.wait().map_err(|e| e.to_string())?;
        Ok(())
    }

    /// A failure with the last lines that the machine said.
    pub fn failure(&self, what: &str) -> String {
        let lines: Vec<_> = self.text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(25)..).unwrap_or(&[]);
        format!("{what}\n    | {}", tail.join("\n    | "))
    }
}

/// Runs a command and asks for a text in its answer, among which the hypervisor's messages
/// may be.
pub fn says(session: &mut Session, command: &str, wanted: &str) -> Result<(), String> {
    let answer = session.shell(command)?;
    if answer.contains(wanted) {
        Ok(())
    } else {
        Err(session.failure(&format!("`{command}` gave {answer:?}, without {wanted:?}")))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
