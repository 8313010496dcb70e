//! The connection of a migration: TLS 1.3 in which each end shows a certificate that the other
//! knows, or plain TCP where that was asked for.
//!
//! A host has a key and a certificate of its own, made by `overcast init`, and a directory
//! with the certificates of the hosts that it trusts, itself included. There is no authority
//! above them, as with ssh's host keys.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::error::{Error, Result};

/// The port of `overcast receive`.
pub const PORT: u16 = 8102;
/// Where keys and certificates are.
pub const DIRECTORY: &str = "/etc/overcast";
/// The name that is in each certificate: hosts are known by their keys.
const NAME: &str = "overcast.invalid";
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(15);

/// The keys of this host.
pub struct Keys {
    directory: PathBuf,
}

fn bad(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Peer(format!("{what}: {error}"))
}

impl Keys {
    /// Those in a directory.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    fn key(&self) -> PathBuf {
        self.directory.join("host.key")
    }

    /// The file of the certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("host.pem")
    }

    fn trusted(&self) -> PathBuf {
        self.directory.join("trusted")
    }

    /// Makes them, unless they are there; whether they are new.
    pub fn make(&self) -> Result<bool> {
        if self.key().exists() && self.certificate().exists() {
            return Ok(false);
        }
        fs::create_dir_all(self.trusted())?;
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])
            .map_err(|error| bad("making a key", error))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.key())?;
        file.write_all(made.signing_key.serialize_pem().as_bytes())?;
        let certificate = made.cert.pem();
        fs::write(self.certificate(), &certificate)?;
        fs::write(self.trusted().join("self.pem"), &certificate)?;
        Ok(true)
    }

    /// Trusts the host of a certificate.
    pub fn trust(&self, name: &str, certificate: &Path) -> Result<()> {
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(Error::Usage(format!("\"{name}\" is no name for a host")));
        }
        let show = certificate.display();
        let text = fs::read(certificate).map_err(|error| bad(&show.to_string(), error))?;
        CertificateDer::from_pem_slice(&text).map_err(|error| bad(&show.to_string(), error))?;
        fs::create_dir_all(self.trusted())?;
        fs::write(self.trusted().join(format!("{name}.pem")), text)?;
        Ok(())
    }

    fn roots(&self) -> Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for entry in fs::read_dir(self.trusted()).map_err(|error| self.missing(error))? {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != "pem") {
                continue;
            }
            let show = path.display().to_string();
            let certificates = CertificateDer::pem_file_iter(&path).map_err(|e| bad(&show, e))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| bad(&show, error))?;
                roots.add(certificate).map_err(|error| bad(&show, error))?;
            }
        }
        Ok(Arc::new(roots))
    }

    fn missing(&self, error: io::Error) -> Error {
        bad(
            &format!("{} (`overcast init` makes it)", self.directory.display()),
            error,
        )
    }

    fn own(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let missing = |error| bad("keys (`overcast init` makes them)", error);
        let certificate = CertificateDer::from_pem_file(self.certificate()).map_err(missing)?;
        let key = PrivateKeyDer::from_pem_file(self.key()).map_err(missing)?;
        Ok((vec![certificate], key))
    }

    /// What to connect with.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let (chain, key) = self.own()?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| bad("TLS", error))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad("keys", error))?;
        Ok(Arc::new(config))
    }

    /// What to be connected to with.
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let (chain, key) = self.own()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(|error| bad("trusted hosts", error))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| bad("TLS", error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| bad("keys", error))?;
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A socket that may have to be done with everything at some time.
pub struct Socket {
    stream: TcpStream,
    until: Option<Instant>,
}

impl Socket {
    /// So long may the next read or write take, where there is a deadline: who sends a byte
    /// now and then is not in time.
    fn be_in_time(&self) -> io::Result<()> {
        let Some(until) = self.until else {
            return Ok(());
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }
}

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.be_in_time()?;
        self.stream.read(bytes)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.be_in_time()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A connection.
pub enum Channel {
    /// Not secured.
    Plain(Socket),
    /// Of the source.
    Client(Box<StreamOwned<ClientConnection, Socket>>),
    /// Of the target.
    Server(Box<StreamOwned<ServerConnection, Socket>>),
}

/// Has a connection fail soon when its other end is silent or out of reach: a guest may be
/// suspended meanwhile.
fn be_watchful(stream: TcpStream) -> Result<Socket> {
    stream.set_nodelay(true)?;
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        // Seconds of silence before it is asked for, between questions, and how many of those.
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 5),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4),
        // Milliseconds that what was sent may wait for its acknowledgement.
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 25_000),
    ] {
        let value: libc::c_int = value;
        // SAFETY: the option's value is an int that lives for the call, and its size is given.
        let result = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error().into());
        }
    }
    Ok(Socket {
        stream,
        until: None,
    })
}

impl Channel {
    /// Connects to a host, `HOST` or `HOST:PORT`; plain without keys.
    pub fn connect(host: &str, keys: Option<&Keys>) -> Result<Self> {
        let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
            port.parse::<u16>().is_ok() && (!name.contains(':') || name.ends_with(']'))
        });
        let full = match has_port {
            true => host.to_owned(),
            false => format!("{host}:{PORT}"),
        };
        let mut last = Error::Peer(format!("{host} has no address"));
        for address in full.to_socket_addrs().map_err(|error| bad(host, error))? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    let socket = be_watchful(stream)?;
                    let Some(keys) = keys else {
                        return Ok(Self::Plain(socket));
                    };
                    let name = ServerName::try_from(NAME).map_err(|error| bad(NAME, error))?;
                    let connection = ClientConnection::new(keys.client()?, name)
                        .map_err(|error| bad("TLS", error))?;
                    return Ok(Self::Client(Box::new(StreamOwned::new(connection, socket))));
                }
                Err(error) => last = bad(&address.to_string(), error),
            }
        }
        Err(last)
    }

    /// Takes a connection that came; plain without a configuration.
    pub fn accept(stream: TcpStream, config: Option<&Arc<ServerConfig>>) -> Result<Self> {
        let socket = be_watchful(stream)?;
        let Some(config) = config else {
            return Ok(Self::Plain(socket));
        };
        let connection =
            ServerConnection::new(Arc::clone(config)).map_err(|error| bad("TLS", error))?;
        Ok(Self::Server(Box::new(StreamOwned::new(connection, socket))))
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Client(stream) => &stream.sock,
            Self::Server(stream) => &stream.sock,
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Client(stream) => &mut stream.sock,
            Self::Server(stream) => &mut stream.sock,
        }
    }

    /// How long each read and write may take; there is no deadline any more.
    pub fn set_patience(&mut self, patience: Option<Duration>) -> Result<()> {
        let socket = self.socket_mut();
        socket.until = None;
        socket.stream.set_read_timeout(patience)?;
        socket.stream.set_write_timeout(patience)?;
        Ok(())
    }

    /// How long all that is read and written from here on may take together, until
    /// [`Self::set_patience`].
    pub fn set_deadline(&mut self, time: Duration) {
        self.socket_mut().until = Some(Instant::now() + time);
    }

    /// Who is at the other end.
    pub fn peer(&self) -> String {
        match self.socket().stream.peer_addr() {
            Ok(address) => address.to_string(),
            Err(_) => "?".into(),
        }
    }
}

impl Read for Channel {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Client(stream) => stream.read(bytes),
            Self::Server(stream) => stream.read(bytes),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Client(stream) => stream.write(bytes),
            Self::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Client(stream) => stream.flush(),
            Self::Server(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("overcast-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Whether a client with some keys and a server with others get a byte across.
    fn talk(client: &Keys, server: &Keys) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let config = server.server()?;
        let thread = std::thread::spawn(move || -> Result<()> {
            let mut channel = Channel::accept(listener.accept()?.0, Some(&config))?;
            let mut byte = [0];
            channel.read_exact(&mut byte)?;
            channel.write_all(&byte)?;
            channel.flush()?;
            Ok(())
        });
        let client = (|| {
            let mut channel = Channel::connect(&address, Some(client))?;
            channel.write_all(&[7])?;
            channel.flush()?;
            let mut byte = [0];
            channel.read_exact(&mut byte)?;
            Ok(())
        })();
        thread.join().expect("no panic")?;
        client
    }

    #[test]
    fn who_says_little_again_and_again_is_not_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut slow = Channel::connect(&address, None).expect("a connection");
        let accepted = listener.accept().expect("a connection").0;
        let mut channel = Channel::accept(accepted, None).expect("a connection");
        let thread = std::thread::spawn(move || {
            // Until the other end is gone.
            while slow.write_all(&[7]).is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        channel.set_deadline(Duration::from_millis(100));
        let mut all = [0; 200];
        channel.read_exact(&mut all).expect_err("not in time");
        assert_eq!(all.last(), Some(&0));
        // What it says later is heard again.
        channel.set_patience(None).expect("patience");
        channel.read_exact(&mut [0]).expect("a byte");
        drop(channel);
        thread.join().expect("no panic");
    }

    #[test]
    fn hosts_talk_if_each_trusts_the_other() {
        let (a, b) = (Scratch::new("a"), Scratch::new("b"));
        let (keys_a, keys_b) = (Keys::new(&a.0), Keys::new(&b.0));
        assert!(keys_a.make().expect("keys"));
        assert!(!keys_a.make().expect("they are there"));
        keys_b.make().expect("keys");
        talk(&keys_a, &keys_a).expect("with itself");
        talk(&keys_a, &keys_b).expect_err("strangers");
        keys_a
            .trust("b", &keys_b.certificate())
            .expect("a certificate");
        talk(&keys_a, &keys_b).expect_err("the server does not know the client");
        talk(&keys_b, &keys_a).expect_err("the client does not know the server");
        keys_b
            .trust("a", &keys_a.certificate())
            .expect("a certificate");
        talk(&keys_a, &keys_b).expect("both know the other");
        talk(&keys_b, &keys_a).expect("both know the other");
    }
}
