//! Plain HTTP with the credentials of a kubeconfig, for what kubectl alone cannot show.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// What others are to do is looked for so often, and so many times.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 1200;

/// What APIs speak unless asked otherwise.
pub const JSON: &str = "application/json";
/// What components speak among themselves, and kubectl where it can.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What kubectl asks for when it prints a list.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                         application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
/// What kubectl asks for when it learns which kinds there are.
pub const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                             application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                             application/json";

/// A client that sends what it is told.
pub struct Wire {
    /// The namespace that `{ns}` in a path stands for.
    pub ns: String,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// An answer, all of it.
pub struct Told {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Told {
    /// The body as JSON, which it must be.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Each line of the body as JSON.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let events = text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON"));
        events.collect()
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The code and reason of a Status.
    pub fn reason(&self) -> (u16, String) {
        (self.code, self.json()["reason"].as_str().unwrap_or_default().to_owned())
    }
}

impl Wire {
    /// As the user of this kubeconfig.
    pub fn new(kubeconfig: Kubeconfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let mut config = config.expect("the kubeconfig can be used");
            config.default_retry = false;
            Client::try_from(config).expect("the kubeconfig can be used")
        });
        Self { ns: String::new(), client, runtime }
    }

    /// Sends a request; nothing if no answer comes.
    pub fn try_ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Told> {
        let mut request = Request::builder().method(method).uri(path.replace("{ns}", &self.ns));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_vec().into()).expect("a test sends what can be sent");
        self.runtime.block_on(async {
            let response = self.client.send(request).await.ok()?;
            let (code, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.into_body().collect().await.ok()?.to_bytes();
            Some(Told { code, headers, body })
        })
    }

    /// Sends a request and waits for all of the answer.
    pub fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Told {
        let told = self.try_ask(method, path, headers, body);
        told.unwrap_or_else(|| panic!("{path}: the server did not answer"))
    }

    /// Reads.
    pub fn get(&self, path: &str, accept: &str) -> Told {
        self.ask(Method::GET, path, &[("accept", accept)], b"")
    }

    /// Reads again and again until what is read is as it should be.
    pub fn until(&self, path: &str, holds: impl Fn(&Told) -> bool) -> Told {
        for _ in 0..LOOKS_MAX {
            let told = self.get(path, JSON);
            if holds(&told) {
                return told;
            }
            self.runtime.block_on(async { tokio::time::sleep(LOOK_EVERY).await });
        }
        let told = self.get(path, JSON);
        panic!("{path}: still {} {}", told.code, told.text());
    }

    /// Creates.
    pub fn post(&self, path: &str, body: &Value) -> Told {
        let headers = [("content-type", JSON), ("user-agent", "wire/1.0")];
        self.ask(Method::POST, path, &headers, body.to_string().as_bytes())
    }

    /// Creates, which must succeed.
    pub fn made(&self, path: &str, body: &Value) -> Value {
        let told = self.post(path, body);
        assert_eq!(told.code, 201, "{path}: {}", told.text());
        told.json()
    }

    /// Patches, in one of the four languages.
    pub fn patch(&self, path: &str, form: &str, body: &Value) -> Told {
        let form = format!("application/{form}");
        let headers = [("content-type", form.as_str()), ("user-agent", "wire/1.0")];
        self.ask(Method::PATCH, path, &headers, body.to_string().as_bytes())
    }

    /// Replaces.
    pub fn put(&self, path: &str, body: &Value) -> Told {
        let headers = [("content-type", JSON), ("user-agent", "wire/1.0")];
        self.ask(Method::PUT, path, &headers, body.to_string().as_bytes())
    }

    /// Deletes, with options.
    pub fn delete(&self, path: &str, options: &Value) -> Told {
        let headers = [("content-type", JSON)];
        self.ask(Method::DELETE, path, &headers, options.to_string().as_bytes())
    }
}
