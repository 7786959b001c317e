//! The registry of kinds: one file per kind, one line per kind in [`ALL`].

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::custom::Custom;
use crate::validation::{items, text};
use crate::{Cause, LabelSelector, Object, versions};

macro_rules! registry {
    ($($module:ident :: $name:ident,)+) => {
        $(mod $module;)+
        $(pub use $module::$name;)+
        /// Every kind, in order of its file's name.
        pub static ALL: &[&Kind] = &[$(&$name,)+];
    };
}

registry! {
    api_service::API_SERVICE,
    certificate_signing_request::CERTIFICATE_SIGNING_REQUEST,
    cluster_role::CLUSTER_ROLE,
    cluster_role_binding::CLUSTER_ROLE_BINDING,
    config_map::CONFIG_MAP,
    controller_revision::CONTROLLER_REVISION,
    cron_job::CRON_JOB,
    csi_driver::CSI_DRIVER,
    csi_node::CSI_NODE,
    csi_storage_capacity::CSI_STORAGE_CAPACITY,
    custom_resource_definition::CUSTOM_RESOURCE_DEFINITION,
    daemon_set::DAEMON_SET,
    deployment::DEPLOYMENT,
    endpoint_slice::ENDPOINT_SLICE,
    endpoints::ENDPOINTS,
    event::EVENT,
    horizontal_pod_autoscaler::HORIZONTAL_POD_AUTOSCALER,
    ingress::INGRESS,
    ingress_class::INGRESS_CLASS,
    ip_address::IP_ADDRESS,
    job::JOB,
    lease::LEASE,
    limit_range::LIMIT_RANGE,
    mutating_webhook_configuration::MUTATING_WEBHOOK_CONFIGURATION,
    namespace::NAMESPACE,
    network_policy::NETWORK_POLICY,
    node::NODE,
    persistent_volume::PERSISTENT_VOLUME,
    persistent_volume_claim::PERSISTENT_VOLUME_CLAIM,
    pod::POD,
    pod_disruption_budget::POD_DISRUPTION_BUDGET,
    pod_template::POD_TEMPLATE,
    priority_class::PRIORITY_CLASS,
    replica_set::REPLICA_SET,
    replication_controller::REPLICATION_CONTROLLER,
    resource_quota::RESOURCE_QUOTA,
    role::ROLE,
    role_binding::ROLE_BINDING,
    runtime_class::RUNTIME_CLASS,
    secret::SECRET,
    service::SERVICE,
    service_account::SERVICE_ACCOUNT,
    service_cidr::SERVICE_CIDR,
    stateful_set::STATEFUL_SET,
    storage_class::STORAGE_CLASS,
    validating_admission_policy::VALIDATING_ADMISSION_POLICY,
    validating_admission_policy_binding::VALIDATING_ADMISSION_POLICY_BINDING,
    validating_webhook_configuration::VALIDATING_WEBHOOK_CONFIGURATION,
    volume_attachment::VOLUME_ATTACHMENT,
}

pub use certificate_signing_request::{prepare_approval, validate_answer};
pub use priority_class::SYSTEM_PRIORITY_CLASSES;
pub use service::NODE_PORTS;

/// Where kinds are found by group and plural, and by group, version and kind.
struct Index {
    by_plural: BTreeMap<(&'static str, &'static str), &'static Kind>,
    by_name: BTreeMap<(&'static str, &'static str, &'static str), &'static Kind>,
    served: BTreeMap<(&'static str, &'static str, &'static str), &'static Kind>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| Index {
    by_plural: ALL.iter().map(|kind| ((kind.group, kind.plural), *kind)).collect(),
    by_name: versions::served().map(|kind| ((kind.group, kind.version, kind.kind), kind)).collect(),
    served: versions::served()
        .map(|kind| ((kind.group, kind.version, kind.plural), kind))
        .collect(),
});

/// A namespaced kind with nothing of its own, from which others say how they differ.
pub(crate) const PLAIN: Kind = Kind {
    id: "",
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default: |_| {},
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate: |_, _| Vec::new(),
    columns: &[NAME, AGE],
    cells: |object, now| vec![object.name().into(), age(object, now)],
    custom: None,
};

/// A column of the table that `kubectl get` prints.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer` or `date`.
    pub format: &'static str,
    /// 0 always shown, 1 only with `-o wide`.
    pub priority: u8,
}

/// A subresource beside `status` and `scale`.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    /// The last part of the URL, such as `eviction`.
    pub name: &'static str,
    /// The kind that is sent or answered.
    pub kind: &'static str,
    /// The group of that kind.
    pub group: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

const fn column(name: &'static str, format: &'static str, priority: u8) -> Column {
    Column { name, format, priority }
}

const NAME: Column = column("Name", "string", 0);
const AGE: Column = column("Age", "string", 0);

/// What upstream prints of kinds that have no columns of their own.
const CREATED_AT: Column = column("Created At", "date", 0);

/// When an object was created, as a cell.
fn created_at(object: &Object) -> Value {
    object.created().map_or_else(|| "<unknown>".into(), |at| crate::conditions::seconds(at).into())
}

/// The age of an object, as a cell.
fn age(object: &Object, now: jiff::Timestamp) -> Value {
    crate::duration::age(object.created(), now).into()
}

/// The text, or `otherwise` if it is empty, as a cell.
fn or(text: &str, otherwise: &str) -> Value {
    if text.is_empty() { otherwise.into() } else { text.into() }
}

/// Names and images of the containers in a template, as cells.
fn containers(template: &Value) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let all: Vec<_> = items(&template["spec"]["containers"])
            .map(|(_, container)| text(&container[field]))
            .collect();
        all.join(",").into()
    })
}

/// A map of labels, as a cell: `a=b,c=d`.
fn labels(labels: &Value) -> Value {
    let mut all: Vec<_> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    all.sort();
    or(&all.join(","), "<none>")
}

/// A label selector, as a cell.
fn selector(selector: Option<&Value>) -> Value {
    match LabelSelector::from_value(selector) {
        Err(_) => "<error>".into(),
        Ok(selector) if selector.requirements().is_empty() => "<none>".into(),
        Ok(selector) => selector.to_string().into(),
    }
}

/// Nothing to prepare before a creation.
fn create_as_is(_object: &mut Object) {}

/// Nothing to prepare before an update.
fn update_as_is(_object: &mut Object, _old: &Object) {}

/// A new object has nothing in its status yet.
fn create_without_status(object: &mut Object) {
    object.set("/status", serde_json::json!({}));
}

/// The status changes only through its own subresource.
fn keep_status(object: &mut Object, old: &Object) {
    match old.get("/status") {
        Some(status) => object.set("/status", status.clone()),
        None => drop(object.remove("/status")),
    }
}

/// What the API server must know of a kind.
#[derive(Debug)]
pub struct Kind {
    /// Plural and group, such as `pods` or `deployments.apps`.
    pub id: &'static str,
    /// API group; "" for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in URLs.
    pub plural: &'static str,
    /// Short names, such as `po`.
    pub short_names: &'static [&'static str],
    /// Categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is a subresource of its own.
    pub has_status: bool,
    /// Whether `/scale` exists.
    pub has_scale: bool,
    /// Further subresources, in order of name.
    pub subresources: &'static [Subresource],
    /// Whether a change of `spec` raises `metadata.generation`.
    pub has_generation: bool,
    /// Fields by which a list can be narrowed, beside metadata.name and metadata.namespace:
    /// the field's name and its JSON pointer.
    pub selectable: &'static [(&'static str, &'static str)],
    /// Sets the defaults that upstream sets.
    pub default: fn(&mut Object),
    /// Before an object is created: drops what a client may not set, sets what only the server sets.
    pub prepare_create: fn(&mut Object),
    /// Before an object is replaced through its main resource: keeps what a client may not change there.
    pub prepare_update: fn(&mut Object, old: &Object),
    /// What is wrong with an object; with the old one for an update.
    pub validate: fn(&Object, Option<&Object>) -> Vec<Cause>,
    /// The table's columns, Name first, Age where upstream has it.
    pub columns: &'static [Column],
    /// The cells of one row; ages are computed from `now`.
    pub cells: fn(&Object, now: jiff::Timestamp) -> Vec<Value>,
    /// What a custom kind has instead of the functions above.
    pub custom: Option<&'static Custom>,
}

impl Kind {
    /// Group and version, such as `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The kind that is served under this group, version and plural, be it as it is stored or not.
    pub fn served(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        INDEX.served.get(&(group, version, plural)).copied()
    }

    /// The stored kind with this group and plural.
    pub fn by_plural(group: &str, plural: &str) -> Option<&'static Kind> {
        INDEX.by_plural.get(&(group, plural)).copied()
    }

    /// The kind with this `apiVersion` and `kind`.
    pub fn by_name(api_version: &str, name: &str) -> Option<&'static Kind> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        INDEX.by_name.get(&(group, version, name)).copied()
    }

    /// Sets the defaults of the kind.
    pub fn set_defaults(&self, object: &mut Object) {
        match self.custom {
            Some(custom) => custom.default(object),
            None => (self.default)(object),
        }
    }

    /// Before an object is created; see [`Kind::prepare_create`].
    pub fn prepare_new(&self, object: &mut Object) {
        match self.custom {
            Some(_) if self.has_status => drop(object.remove("/status")),
            Some(_) => {}
            None => (self.prepare_create)(object),
        }
    }

    /// Before an object is replaced; see [`Kind::prepare_update`].
    pub fn prepare_replaced(&self, object: &mut Object, old: &Object) {
        match self.custom {
            Some(_) if self.has_status => keep_status(object, old),
            Some(_) => {}
            None => (self.prepare_update)(object, old),
        }
    }

    /// What is wrong with an object; with the old one for an update.
    pub fn problems(&self, object: &Object, old: Option<&Object>) -> Vec<Cause> {
        match self.custom {
            Some(custom) => custom.validate(self, object, old),
            None => (self.validate)(object, old),
        }
    }

    /// The cells of one row of the table.
    pub fn row(&self, object: &Object, now: jiff::Timestamp) -> Vec<Value> {
        match self.custom {
            Some(custom) => custom.cells(object, now),
            None => (self.cells)(object, now),
        }
    }

    /// The name for one, in lower case.
    pub fn singular(&self) -> String {
        self.custom.map_or_else(|| self.kind.to_lowercase(), |custom| custom.singular.clone())
    }

    /// The kind of its lists.
    pub fn list_kind(&self) -> String {
        self.custom.map_or_else(|| format!("{}List", self.kind), |custom| custom.list_kind.clone())
    }

    /// Before an object is replaced through `/status`: keeps all but the status from the old object, and of
    /// the metadata what a status update may not change.
    pub fn prepare_status_update(&self, object: &mut Object, old: &Object) {
        if self.custom.is_some() {
            return Custom::prepare_status_update(object, old);
        }
        let status = object.0["status"].take();
        let metadata = object.0["metadata"].take();
        object.0 = old.0.clone();
        object.0["metadata"] = metadata;
        for field in
            ["labels", "ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds"]
        {
            match old.0["metadata"].get(field) {
                Some(value) => object.0["metadata"][field] = value.clone(),
                None => drop(object.remove(&format!("/metadata/{field}"))),
            }
        }
        object.set("/status", status);
    }

    /// The URL path of the collection, or of one object if `name` is not empty.
    /// An empty namespace names all namespaces, or a cluster-scoped kind.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    pub(super) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// What is wrong with an object, as lines `reason field: message`.
    pub(super) fn found(kind: &Kind, object: &Object, old: Option<&Object>) -> Vec<String> {
        crate::validation::tests::lines(&(kind.validate)(object, old))
    }

    /// A row of the table at a second after 1970, cells joined by `|`.
    pub(super) fn row(kind: &Kind, object: &Object, second: i64) -> String {
        let cells = (kind.cells)(object, at(second));
        assert_eq!(cells.len(), kind.columns.len(), "one cell per column");
        let shown = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
        cells.iter().map(shown).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn the_registry_is_without_twins() {
        let ids: std::collections::BTreeSet<_> = ALL.iter().map(|kind| kind.id).collect();
        assert_eq!(ids.len(), ALL.len());
        for kind in ALL {
            assert!(std::ptr::eq(Kind::by_plural(kind.group, kind.plural).unwrap(), *kind));
            assert!(std::ptr::eq(Kind::by_name(&kind.api_version(), kind.kind).unwrap(), *kind));
        }
    }

    #[test]
    fn every_kind_prints_and_defaults_an_almost_empty_object() {
        for kind in ALL {
            let mut object = Object::new(&kind.api_version(), kind.kind, "", "x");
            if kind.namespaced {
                object.set("/metadata/namespace", "default");
            }
            row(kind, &object, 0);
            (kind.prepare_create)(&mut object);
            (kind.default)(&mut object);
            row(kind, &object, 0);
            let once = object.clone();
            (kind.default)(&mut object);
            assert_eq!(object, once, "defaulting {} twice changes nothing", kind.kind);
            let alone = (kind.validate)(&object, None);
            let again = (kind.validate)(&object, Some(&object));
            assert!(again.iter().all(|cause| alone.contains(cause)), "{}: {again:?}", kind.kind);
        }
    }

    #[test]
    fn nonsense_does_not_panic() {
        let nonsense = [serde_json::json!(1), serde_json::json!("x"), serde_json::json!([[]])];
        let fields = [
            "spec",
            "status",
            "metadata",
            "data",
            "stringData",
            "involvedObject",
            "template",
            "subsets",
            "revision",
            "rules",
            "subjects",
            "roleRef",
            "aggregationRule",
            "endpoints",
            "ports",
            "webhooks",
            "overhead",
            "scheduling",
            "parameters",
            "allowedTopologies",
            "nodeTopology",
        ];
        for (kind, value) in ALL.iter().flat_map(|kind| nonsense.iter().map(move |v| (kind, v))) {
            for field in fields {
                let mut object = Object::new(&kind.api_version(), kind.kind, "default", "x");
                object.0[field] = value.clone();
                (kind.default)(&mut object);
                (kind.validate)(&object, None);
                row(kind, &object, 0);
            }
        }
    }

    #[test]
    fn a_status_update_changes_nothing_else() {
        let mut old = Object::new("v1", "Pod", "default", "web");
        old.set("/spec/nodeName", "worker-1");
        old.set("/metadata/labels/a", "1");
        let mut new = Object::new("v1", "Pod", "default", "web");
        new.set("/metadata/annotations/x", "y");
        new.set("/status/phase", "Running");
        POD.prepare_status_update(&mut new, &old);
        assert_eq!(new.text("/spec/nodeName"), "worker-1");
        assert_eq!(new.label("a"), Some("1"));
        assert_eq!(new.annotation("x"), Some("y"));
        assert_eq!(new.text("/status/phase"), "Running");
    }

    /// A manifest through every step of a creation: check, decode, prepare, default, validate.
    fn created(manifest: &str) -> Result<Object, String> {
        let mut object = Object(serde_yaml::from_str(manifest).unwrap());
        let kind = Kind::by_name(object.api_version(), object.kind()).ok_or("no such kind")?;
        let refuse = |status: crate::Status| status.message;
        let strict = crate::fields::FieldValidation::Strict;
        crate::fields::check(kind, crate::fields::unknown(kind, &object.0), strict)
            .map_err(refuse)?;
        crate::fields::decode(kind, &mut object).map_err(refuse)?;
        if kind.namespaced {
            object.set("/metadata/namespace", "default");
        }
        (kind.prepare_create)(&mut object);
        (kind.default)(&mut object);
        let causes = (kind.validate)(&object, None);
        if causes.is_empty() {
            return Ok(object);
        }
        Err(refuse(crate::Status::invalid(kind.group, kind.kind, object.name(), &causes)))
    }

    #[test]
    fn whole_manifests_are_accepted_or_refused() {
        let deployment = |middle: &str| {
            format!(
                "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{\
                 selector: {{matchLabels: {{app: web}}}}, {middle}}}}}"
            )
        };
        let pod = |spec: &str| {
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {spec}}}")
        };
        let template =
            "template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: x}]}}";
        for (manifest, refusal) in [
            (deployment(&format!("replicas: 3, {template}")), None),
            (
                deployment(&format!("replica: 3, {template}")),
                Some(
                    "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding \
                 error: unknown field \"spec.replica\"",
                ),
            ),
            (
                deployment(&format!("replicas: three, {template}")),
                Some(
                    "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
                 unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
                ),
            ),
            (
                deployment("replicas: 3"),
                Some(
                    "Deployment.apps \"web\" is invalid: [spec.template.metadata.labels: Invalid value: \
                 map[string]string(nil): `selector` does not match template `labels`, \
                 spec.template.spec.containers: Required value]",
                ),
            ),
            (pod("null"), Some("Pod \"web\" is invalid: spec.containers: Required value")),
            (
                pod(
                    "{containers: [{name: a, image: x, resources: {limits: {cpu: 0.5, memory: 1Gi}}}]}",
                ),
                None,
            ),
            (
                pod(
                    "{containers: [{name: a, image: x, resources: {limits: {cpu: 1, memory: lots}}}]}",
                ),
                Some(
                    "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the \
                    regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                ),
            ),
            (
                "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}}".into(),
                None,
            ),
            ("{apiVersion: apps/v1beta2, kind: Deployment}".into(), Some("no such kind")),
        ] {
            assert_eq!(created(&manifest).err().as_deref(), refusal, "{manifest}");
        }
        let guaranteed = pod(
            "{containers: [{name: a, image: x, resources: {limits: {cpu: 0.5, memory: 1Gi}}}]}",
        );
        assert_eq!(created(&guaranteed).unwrap().text("/status/qosClass"), "Guaranteed");
    }
}
