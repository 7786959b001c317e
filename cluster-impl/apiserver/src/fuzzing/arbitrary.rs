//! Values out of a fuzzer's bytes: each choice takes a byte, and when all are used up the first choice is
//! taken. So every input stands for a value, and a small change of the input is a small change of the value.

use machinery::Kind;
use machinery::schema::{Shape, TypeFact, type_of};
use serde_json::{Map, Value, json};

/// Texts that mean something somewhere.
const WORDS: &[&str] = &[
    "",
    "a",
    "b",
    "web",
    "default",
    "kube-system",
    "app",
    "main",
    "worker-1",
    "x-1",
    "A",
    "0",
    "1",
    "-1",
    "80",
    "http",
    "65536",
    "500m",
    "1Gi",
    "1.5",
    "-1Ki",
    "9223372036854775807",
    "1e99",
    "1n",
    "25%",
    "101%",
    "2026-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "2026-01-01",
    "*",
    "* * * * *",
    "@every 1h",
    "10.0.0.1",
    "10.96.0.10",
    "10.96.0.0/12",
    "fd00::1",
    "::/0",
    "255.255.255.255",
    "None",
    "TCP",
    "UDP",
    "SCTP",
    "Always",
    "Never",
    "IfNotPresent",
    "OnFailure",
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "Recreate",
    "RollingUpdate",
    "OnDelete",
    "Parallel",
    "Forbid",
    "Replace",
    "Exact",
    "Prefix",
    "ImplementationSpecific",
    "ReadWriteOnce",
    "ReadWriteOncePod",
    "Retain",
    "Delete",
    "Immediate",
    "WaitForFirstConsumer",
    "NoSchedule",
    "NoExecute",
    "Equal",
    "Exists",
    "In",
    "NotIn",
    "Gt",
    "DoesNotExist",
    "Pod",
    "ConfigMap",
    "Deployment",
    "Node",
    "User",
    "Group",
    "ServiceAccount",
    "v1",
    "apps/v1",
    "rbac.authorization.k8s.io",
    "Resource",
    "Utilization",
    "AverageValue",
    "Min",
    "Max",
    "Percent",
    "Pods",
    "Container",
    "PersistentVolumeClaim",
    "cpu",
    "memory",
    "pods",
    "requests.cpu",
    "ephemeral-storage",
    "kubernetes.io/hostname",
    "kubernetes.io/tls",
    "kubernetes.io/dockerconfigjson",
    "node.kubernetes.io/x",
    "example.com/a",
    "foreground",
    "orphan",
    "kubernetes",
    "IPv4",
    "IPv6",
    "SingleStack",
    "PreferDualStack",
    "Local",
    "Cluster",
    "Namespaced",
    "get",
    "list",
    "watch",
    "create",
    "metadata.name",
    "spec.nodeName",
    "status.phase",
    ".spec.a",
    ".spec.a[*].b",
    "self.a > 1",
    "true",
    "object.metadata.name == 'a'",
    "Ignore",
    "Fail",
    "app=web",
    "a in (b,c),!d",
    "$patch",
    "/spec/containers/0",
    "-",
    "~1",
    "../x",
    "a/b",
    "a%2Fb",
    "%",
    "\u{e9}",
    "\u{0}",
    "\u{10ffff}",
    "bm90aGluZw==",
    "e30=",
    "{}",
    "[]",
    "null",
    "\n",
    " ",
    "a\tb",
];

/// Fields that objects and schemas of any kind have in tests.
pub(super) const NAMES: &[&str] = &["a", "b", "c", "spec", "status", "metadata", "kind", "name"];

/// Numbers at which things turn over.
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    3,
    5,
    30,
    80,
    100,
    127,
    443,
    600,
    3600,
    30000,
    32767,
    65535,
    65536,
    1 << 31,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 53,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
];

/// Bytes, taken one by one.
pub(super) struct Source<'d>(&'d [u8]);

impl<'d> Source<'d> {
    pub(super) fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    /// Whether there is no byte left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub(super) fn rest(&mut self) -> &'d [u8] {
        std::mem::take(&mut self.0)
    }

    /// A byte; 0 at the end.
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of so many.
    pub(super) fn below(&mut self, count: usize) -> usize {
        match count {
            0 | 1 => 0,
            2..=256 => usize::from(self.byte()) % count,
            _ => (usize::from(self.byte()) << 8 | usize::from(self.byte())) % count,
        }
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// True once in so many.
    pub(super) fn once_in(&mut self, count: u8) -> bool {
        self.byte() % count == count - 1
    }

    /// So many bytes, or what is left.
    pub(super) fn bytes(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A word, or a text of the bytes themselves.
    pub(super) fn text(&mut self) -> String {
        match self.byte() {
            letter @ 0..26 => char::from(b'a' + letter).to_string(),
            length @ 240.. => {
                let length = usize::from(length - 240);
                String::from_utf8_lossy(self.bytes(length)).into_owned()
            }
            choice => {
                let at = usize::from(choice - 26);
                WORDS[at % WORDS.len()].to_owned()
            }
        }
    }

    /// A number.
    pub(super) fn number(&mut self) -> i64 {
        match self.byte() {
            small @ 0..=99 => i64::from(small % 10),
            100..=199 => self.pick(NUMBERS),
            _ => self.bytes(8).iter().fold(0, |sum: i64, byte| sum << 8 | i64::from(*byte)),
        }
    }

    /// Any JSON that nests no deeper than this.
    pub(super) fn any(&mut self, depth: usize) -> Value {
        match self.byte() % if depth == 0 { 6 } else { 9 } {
            0 => Value::Null,
            1 => true.into(),
            2 => false.into(),
            3 => self.number().into(),
            4 => self.text().into(),
            5 => json!(f64::from(self.byte()) / 4.0 - 8.0),
            6 => {
                let count = self.below(4);
                (0..count).map(|_| self.any(depth - 1)).collect()
            }
            _ => {
                let count = self.below(4);
                let member = |_| {
                    let name = match self.once_in(4) {
                        true => self.text(),
                        false => (self.pick(NAMES)).to_owned(),
                    };
                    (name, self.any(depth - 1))
                };
                Value::Object((0..count).map(member).collect())
            }
        }
    }

    /// A value of this shape; now and then another one, unless `is_strict`.
    pub(super) fn shaped(&mut self, shape: &Shape, depth: usize, is_strict: bool) -> Value {
        if !is_strict && self.once_in(32) {
            return self.any(depth.min(3));
        }
        match shape {
            Shape::String => self.text().into(),
            Shape::Bytes => {
                use base64::Engine;
                let length = self.below(12);
                base64::engine::general_purpose::STANDARD.encode(self.bytes(length)).into()
            }
            Shape::Time => self.time().into(),
            Shape::Int32 => (self.number() as i32).into(),
            Shape::Int64 => self.number().into(),
            Shape::Bool => (self.byte() & 1 == 1).into(),
            Shape::Double => json!(self.number() as f64 / 4.0),
            Shape::Quantity => self.quantity().into(),
            Shape::IntOrString => match self.byte() & 1 {
                0 => (self.number() as i32).into(),
                _ => self.text().into(),
            },
            Shape::Any => self.any(depth.min(3)),
            Shape::Ref(_) | Shape::Own(_) => match shape.item_type() {
                Some(fact) if depth > 0 => self.typed(fact, depth - 1, is_strict),
                _ => json!({}),
            },
            Shape::List(item) => {
                let count = self.below(4);
                (0..count).map(|_| self.shaped(item, depth, is_strict)).collect()
            }
            Shape::Map(item) => {
                let count = self.below(4);
                let member = |_| (self.text(), self.shaped(item, depth, is_strict));
                Value::Object((0..count).map(member).collect())
            }
        }
    }

    /// An object of this type: some of its fields.
    pub(super) fn typed(&mut self, fact: &TypeFact, depth: usize, is_strict: bool) -> Value {
        let names: Vec<&String> = fact.fields.keys().collect();
        let mut object = Map::new();
        if !self.once_in(8) {
            for name in &fact.required {
                if let Some(field) = fact.field(name) {
                    object.insert(name.clone(), self.shaped(&field.shape, depth, is_strict));
                }
            }
        }
        let count = if names.is_empty() { 0 } else { self.below(5) };
        for _ in 0..count {
            let name = names[self.below(names.len())];
            let Some(field) = fact.field(name) else { continue };
            object.insert(name.clone(), self.shaped(&field.shape, depth, is_strict));
        }
        Value::Object(object)
    }

    /// An object of this kind, with its version and kind.
    pub(super) fn object(&mut self, kind: &Kind, is_strict: bool) -> Value {
        let mut object = self.typed(type_of(kind), 8, is_strict);
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        if is_strict || !self.once_in(16) {
            object["metadata"]["name"] = (self.pick(&["a", "b"])).into();
        }
        object
    }

    /// A time of some year.
    fn time(&mut self) -> String {
        let second = match self.byte() {
            0..=99 => 1_767_225_600 + self.number() % 100_000,
            _ => self.number() % 100_000_000_000,
        };
        env::Timestamp::from_second(second)
            .map_or_else(|_| "x".to_owned(), machinery::conditions::seconds)
    }

    fn quantity(&mut self) -> String {
        const SUFFIXES: &[&str] =
            &["", "m", "n", "u", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ei", "e3", "e-3"];
        let number = self.number();
        let fraction = if self.once_in(4) { ".5" } else { "" };
        format!("{number}{fraction}{}", self.pick(SUFFIXES))
    }
}
