//! EC2's metadata service, version 2, as far as the cloud image asks it
//! (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>).

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

/// What gives the right to ask.
const TOKEN: &str = "a-token";

/// Serves on a port of this host, which it gives, for as long as this process lives: an
/// instance called `seeded`, with an ssh key, and root's password `secret` as user data.
pub fn serve(key: &str) -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let key = key.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who goes away in the midst of it comes again.
            let _ = answer(stream, &key);
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, key: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut token = false;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let line = line.trim().to_ascii_lowercase();
        token |= line == format!("x-aws-ec2-metadata-token: {TOKEN}");
    }
    let mut words = request.split_whitespace();
    let text = match (words.next(), words.next()) {
        (Some("PUT"), Some("/latest/api/token")) => Some(TOKEN),
        (Some("GET"), Some(path)) if token => about(path, key),
        _ => None,
    };
    let status = if text.is_some() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let text = text.unwrap_or_default();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn about<'a>(path: &str, key: &'a str) -> Option<&'a str> {
    match path {
        "/latest/meta-data/instance-id" => Some("i-0123456789"),
        "/latest/meta-data/local-hostname" => Some("seeded.ec2.internal"),
        "/latest/meta-data/public-keys/" => Some("0=test"),
        "/latest/meta-data/public-keys/0/openssh-key" => Some(key),
        "/latest/user-data" => Some("#cloud-config\npassword: 'secret'\n"),
        _ => None,
    }
}
