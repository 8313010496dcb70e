//! The metadata services of clouds. All answer at one address; each knows paths and headers of
//! its own, and refuses others'.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::Agent;

use super::Instance;
use super::disk::open_stack;

/// The source's name where something more is to be done.
pub const AZURE: &str = "Azure";

/// The most that is read of one answer, in bytes. EC2 allows 16 KiB of user data, GCE 256 KiB.
const MOST: u64 = 1 << 20;

/// Why nothing can be said about the services: nobody answers.
pub type Unreachable = ureq::Error;

type Answer = Result<Option<String>, Unreachable>;

/// A client for one service.
struct Service<'a> {
    agent: Agent,
    base: &'a str,
    header: Option<(&'static str, String)>,
}

impl<'a> Service<'a> {
    fn new(base: &'a str) -> Self {
        let agent = Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(3)))
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Never ask a proxy for an address that is this link's.
            .proxy(None)
            .build();
        Self {
            agent: agent.into(),
            base,
            header: None,
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    fn call(&self, path: &str) -> Result<ureq::http::Response<ureq::Body>, Unreachable> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        request.call()
    }

    /// The text at a path, or none where the service answers anything but success: for the
    /// question whose service it is.
    fn get(&self, path: &str) -> Answer {
        read(self.call(path)?)
    }

    /// The text at a path of a service that is known. An instance is set up once: what cannot be
    /// read now is no reason to do without, but to ask again.
    fn text(&self, path: &str) -> Answer {
        let response = self.call(path)?;
        let status = response.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(ureq::Error::StatusCode(status.as_u16()));
        }
        read(response)
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    if !response.status().is_success() {
        return Ok(None);
    }
    let bytes = response
        .body_mut()
        .with_config()
        .limit(MOST)
        .read_to_vec()?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Asks each cloud's question in turn. `Ok(None)`: somebody answers, but no cloud that is known.
pub fn find(base: &str) -> Result<Option<Instance>, Unreachable> {
    for ask in [gce, azure, openstack, ec2] {
        if let Some(instance) = ask(base)? {
            return Ok(Some(instance));
        }
    }
    Ok(None)
}

/// <https://cloud.google.com/compute/docs/metadata>
fn gce(base: &str) -> Result<Option<Instance>, Unreachable> {
    let service = Service::new(base).with("Metadata-Flavor", "Google");
    let Some(id) = service.get("/computeMetadata/v1/instance/id")? else {
        return Ok(None);
    };
    // Lines of "user:key"; keys of the project hold unless the instance says otherwise.
    let mut keys = String::new();
    let blocked = service.text("/computeMetadata/v1/instance/attributes/block-project-ssh-keys")?;
    for path in ["instance", "project"] {
        if path == "project"
            && blocked
                .as_deref()
                .is_some_and(|b| b.trim().eq_ignore_ascii_case("true"))
        {
            continue;
        }
        if let Some(lines) =
            service.text(&format!("/computeMetadata/v1/{path}/attributes/ssh-keys"))?
        {
            keys.push_str(&lines);
            keys.push('\n');
        }
    }
    let keys = keys
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    let mut user_data = service.text("/computeMetadata/v1/instance/attributes/user-data")?;
    if user_data.is_none() {
        user_data = service.text("/computeMetadata/v1/instance/attributes/startup-script")?;
    }
    Ok(Some(Instance {
        source: "GCE",
        id: id.trim().to_owned(),
        hostname: service.text("/computeMetadata/v1/instance/hostname")?,
        keys: keys.collect(),
        user_data: user_data.unwrap_or_default().into_bytes(),
    }))
}

/// <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service>
fn azure(base: &str) -> Result<Option<Instance>, Unreachable> {
    let service = Service::new(base).with("Metadata", "true");
    let Some(text) =
        service.get("/metadata/instance/compute?api-version=2021-02-01&format=json")?
    else {
        return Ok(None);
    };
    let Ok(compute) = serde_json::from_str::<serde_json::Value>(&text) else {
        return Ok(None);
    };
    let Some(id) = compute["vmId"].as_str() else {
        return Ok(None);
    };
    let keys = compute["publicKeys"].as_array();
    Ok(Some(Instance {
        source: AZURE,
        id: id.to_owned(),
        hostname: compute["osProfile"]["computerName"]
            .as_str()
            .or(compute["name"].as_str())
            .map(str::to_owned),
        // The key's text may be wrapped over lines.
        keys: keys
            .into_iter()
            .flatten()
            .filter_map(|key| Some(key["keyData"].as_str()?.replace(['\r', '\n'], "")))
            .collect(),
        user_data: service
            .text("/metadata/instance/compute/userData?api-version=2021-02-01&format=text")?
            .and_then(|text| STANDARD.decode(text.trim()).ok())
            .unwrap_or_default(),
    }))
}

/// <https://docs.openstack.org/nova/latest/user/metadata.html>
fn openstack(base: &str) -> Result<Option<Instance>, Unreachable> {
    let service = Service::new(base);
    let Some(meta) = service.get("/openstack/latest/meta_data.json")? else {
        return Ok(None);
    };
    let user_data = service
        .text("/openstack/latest/user_data")?
        .unwrap_or_default();
    Ok(open_stack("OpenStack", &meta, user_data.into_bytes()))
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>; version
/// 2 where there is one. Others' services imitate version 1.
fn ec2(base: &str) -> Result<Option<Instance>, Unreachable> {
    let service = Service::new(base);
    let token = service
        .agent
        .put(format!("{base}/latest/api/token"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", "600")
        .send_empty()?;
    let service = match read(token)? {
        Some(token) => service.with("X-aws-ec2-metadata-token", token.trim()),
        None => service,
    };
    let Some(id) = service.get("/latest/meta-data/instance-id")? else {
        return Ok(None);
    };
    // A list of "0=name"; the keys themselves lie below their numbers.
    let list = service
        .text("/latest/meta-data/public-keys/")?
        .unwrap_or_default();
    let numbers = list
        .lines()
        .filter_map(|line| line.split('=').next()?.trim().parse::<u32>().ok());
    let mut keys = Vec::new();
    for number in numbers {
        let path = format!("/latest/meta-data/public-keys/{number}/openssh-key");
        keys.extend(service.text(&path)?.map(|key| key.trim().to_owned()));
    }
    Ok(Some(Instance {
        source: "EC2",
        id: id.trim().to_owned(),
        hostname: service.text("/latest/meta-data/local-hostname")?,
        keys,
        user_data: service
            .text("/latest/user-data")?
            .unwrap_or_default()
            .into_bytes(),
    }))
}

/// Tells Azure's fabric that the machine is up, without which it counts as failed: reads the
/// goal state, and answers with a report of health for what it names.
pub fn report_to_azure(base: &str) -> Result<(), Box<dyn std::error::Error>> {
    let service = Service::new(base).with("x-ms-version", "2012-11-30");
    let goal = service
        .get("/machine/?comp=goalstate")?
        .ok_or("no goal state")?;
    let field = |tag: &str| {
        let rest = goal.split_once(&format!("<{tag}>"))?.1;
        Some(rest.split_once(&format!("</{tag}>"))?.0.to_owned())
    };
    let (Some(incarnation), Some(container), Some(instance)) = (
        field("Incarnation"),
        field("ContainerId"),
        field("InstanceId"),
    ) else {
        return Err("the goal state lacks something".into());
    };
    let report = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Health><GoalStateIncarnation>{incarnation}\
         </GoalStateIncarnation><Container><ContainerId>{container}</ContainerId><RoleInstanceList>\
         <Role><InstanceId>{instance}</InstanceId><Health><State>Ready</State></Health></Role>\
         </RoleInstanceList></Container></Health>"
    );
    let response = service
        .agent
        .post(format!("{base}/machine?comp=health"))
        .header("x-ms-version", "2012-11-30")
        .content_type("text/xml;charset=utf-8")
        .send(report)?;
    if response.status().is_success() {
        Ok(())
    } else {
        Err(format!("it answers {}", response.status()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    /// One cloud's service: "METHOD path" → text, given only to who sends the header.
    struct Cloud {
        header: &'static str,
        answers: &'static [(&'static str, &'static str)],
    }

    /// Serves for as long as the process lives, and keeps what was posted.
    fn serve(cloud: Cloud) -> (String, Arc<Mutex<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let posted = Arc::new(Mutex::new(String::new()));
        let kept = posted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut request, mut headers) = (String::new(), String::new());
                reader.read_line(&mut request).unwrap();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    let line = line.trim().to_lowercase();
                    if let Some(n) = line.strip_prefix("content-length:") {
                        length = n.trim().parse().unwrap();
                    }
                    headers.push_str(&line);
                    headers.push('\n');
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                kept.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&body));
                let request = request.rsplit_once(' ').unwrap().0;
                let answer = cloud.answers.iter().find(|(path, _)| *path == request);
                let answer = answer
                    .filter(|(path, _)| path.starts_with("PUT") || headers.contains(cloud.header));
                let (status, text) = match answer {
                    None => ("404 Not Found", "nothing"),
                    Some((_, text)) if *text == "busy" => ("503 Service Unavailable", ""),
                    Some((_, text)) => ("200 OK", *text),
                };
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                    text.len()
                );
            }
        });
        (base, posted)
    }

    #[test]
    fn ec2_wants_a_token() {
        let (base, _) = serve(Cloud {
            header: "x-aws-ec2-metadata-token: secret",
            answers: &[
                ("PUT /latest/api/token", "secret"),
                ("GET /latest/meta-data/instance-id", "i-0123"),
                (
                    "GET /latest/meta-data/local-hostname",
                    "ip-10-0-0-1.ec2.internal",
                ),
                ("GET /latest/meta-data/public-keys/", "0=mine\n1=other"),
                (
                    "GET /latest/meta-data/public-keys/0/openssh-key",
                    "ssh-ed25519 AAAA mine\n",
                ),
                (
                    "GET /latest/meta-data/public-keys/1/openssh-key",
                    "ssh-ed25519 BBBB other",
                ),
                ("GET /latest/user-data", "#!/bin/sh\ntrue\n"),
            ],
        });
        let instance = find(&base).unwrap().unwrap();
        assert_eq!((instance.source, instance.id.as_str()), ("EC2", "i-0123"));
        assert_eq!(
            instance.hostname.as_deref(),
            Some("ip-10-0-0-1.ec2.internal")
        );
        assert_eq!(
            instance.keys,
            ["ssh-ed25519 AAAA mine", "ssh-ed25519 BBBB other"]
        );
        assert_eq!(instance.user_data, b"#!/bin/sh\ntrue\n");
    }

    #[test]
    fn a_busy_service_is_asked_again_rather_than_done_without() {
        let answers: &[(&str, &str)] = &[
            ("PUT /latest/api/token", "secret"),
            ("GET /latest/meta-data/instance-id", "i-0123"),
            ("GET /latest/meta-data/public-keys/", "0=mine"),
            ("GET /latest/meta-data/public-keys/0/openssh-key", "busy"),
        ];
        let (base, _) = serve(Cloud {
            header: "x-aws-ec2-metadata-token: secret",
            answers,
        });
        assert!(matches!(find(&base), Err(ureq::Error::StatusCode(503))));
        // Who is asked whether he is another cloud may be as busy as he likes.
        let (base, _) = serve(Cloud {
            header: "x-aws-ec2-metadata-token: secret",
            answers: &[
                ("GET /computeMetadata/v1/instance/id", "busy"),
                ("PUT /latest/api/token", "secret"),
                ("GET /latest/meta-data/instance-id", "i-0123"),
            ],
        });
        assert_eq!(find(&base).unwrap().unwrap().source, "EC2");
    }

    #[test]
    fn gce_names_a_user_with_each_key() {
        let (base, _) = serve(Cloud {
            header: "metadata-flavor: google",
            answers: &[
                ("GET /computeMetadata/v1/instance/id", "42"),
                (
                    "GET /computeMetadata/v1/instance/hostname",
                    "vm.c.p.internal",
                ),
                (
                    "GET /computeMetadata/v1/instance/attributes/ssh-keys",
                    "a:ssh-rsa A a\n",
                ),
                (
                    "GET /computeMetadata/v1/project/attributes/ssh-keys",
                    "b:ssh-rsa B b",
                ),
            ],
        });
        let instance = find(&base).unwrap().unwrap();
        assert_eq!((instance.source, instance.id.as_str()), ("GCE", "42"));
        assert_eq!(instance.keys, ["ssh-rsa A a", "ssh-rsa B b"]);
    }

    #[test]
    fn azure_encodes_user_data_and_wants_a_report() {
        let (base, posted) = serve(Cloud {
            header: "metadata: true",
            answers: &[
                (
                    "GET /metadata/instance/compute?api-version=2021-02-01&format=json",
                    r#"{"vmId": "02aab8a4", "name": "vm", "osProfile": {"computerName": "name"},
                        "publicKeys": [{"keyData": "ssh-rsa AA\r\nBB c", "path": "/home/x"}]}"#,
                ),
                (
                    "GET /metadata/instance/compute/userData?api-version=2021-02-01&format=text",
                    "IyEvYmluL3No",
                ),
            ],
        });
        let instance = find(&base).unwrap().unwrap();
        assert_eq!((instance.source, instance.id.as_str()), (AZURE, "02aab8a4"));
        assert_eq!(instance.hostname.as_deref(), Some("name"));
        assert_eq!(instance.keys, ["ssh-rsa AABB c"]);
        assert_eq!(instance.user_data, b"#!/bin/sh");
        assert_eq!(posted.lock().unwrap().as_str(), "");

        let (wire, posted) = serve(Cloud {
            header: "x-ms-version: 2012-11-30",
            answers: &[
                (
                    "GET /machine/?comp=goalstate",
                    "<GoalState><Incarnation>3</Incarnation><Container><ContainerId>c</ContainerId>\
                     <InstanceId>i.x</InstanceId></Container></GoalState>",
                ),
                ("POST /machine?comp=health", ""),
            ],
        });
        report_to_azure(&wire).unwrap();
        let report = posted.lock().unwrap().clone();
        for part in [
            "<GoalStateIncarnation>3<",
            "<ContainerId>c<",
            "<InstanceId>i.x<",
            "<State>Ready<",
        ] {
            assert!(report.contains(part), "{report}");
        }
    }

    #[test]
    fn openstack_is_json() {
        let (base, _) = serve(Cloud {
            header: "",
            answers: &[
                (
                    "GET /openstack/latest/meta_data.json",
                    r#"{"uuid": "u", "name": "n", "public_keys": {"k": "ssh-rsa K"}}"#,
                ),
                // An OpenStack also speaks as EC2 does; its own words come first.
                ("GET /latest/meta-data/instance-id", "i-1"),
            ],
        });
        let instance = find(&base).unwrap().unwrap();
        assert_eq!((instance.source, instance.id.as_str()), ("OpenStack", "u"));
        assert_eq!(instance.hostname.as_deref(), Some("n"));
    }

    #[test]
    fn a_stranger_is_no_cloud_and_nobody_is_an_error() {
        let (base, _) = serve(Cloud {
            header: "",
            answers: &[],
        });
        assert_eq!(find(&base).unwrap(), None);
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", unused.local_addr().unwrap());
        drop(unused);
        assert!(find(&base).is_err());
    }
}
