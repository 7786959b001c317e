//! The registry of controllers: one file each, one line each in [`all`], in order of the file's name.

use machinery::{LabelSelector, Object};

use crate::{Config, Controller};

macro_rules! registry {
    ($($module:ident :: $name:ident,)+) => {
        $(mod $module;)+
        $(pub use $module::$name;)+

        /// Every controller, as it starts out.
        pub fn all(config: &Config) -> Vec<Box<dyn Controller>> {
            vec![$(Box::new($name::new(config)),)+]
        }
    };
}

registry! {
    csr_approving::CsrApproving,
    csr_cleaner::CsrCleaner,
    csr_signing::CsrSigning,
    deployment::DeploymentController,
    garbage_collector::GarbageCollector,
    namespace::NamespaceController,
    node_ipam::NodeIpam,
    node_lifecycle::NodeLifecycle,
    pod_gc::PodGc,
    pv_protection::PvProtection,
    pvc_protection::PvcProtection,
    replica_set::ReplicaSetController,
    resource_quota::ResourceQuotaController,
    root_ca_cert_publisher::RootCaCertPublisher,
    service_account::ServiceAccountController,
    taint_eviction::TaintEviction,
    token::TokenController,
    token_cleaner::TokenCleaner,
}

/// Whether the labels of `object` match `spec.selector` of `owner`. An empty selector owns nothing.
fn selects(owner: &Object, object: &Object) -> bool {
    LabelSelector::from_value(owner.get("/spec/selector"))
        .is_ok_and(|selector| !selector.is_everything() && selector.matches_object(object))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_registered_in_order() {
        let source = include_str!("mod.rs");
        let listed: Vec<_> = source
            .lines()
            .filter_map(|line| line.strip_prefix("    ")?.split_once("::"))
            .filter(|(_, rest)| rest.ends_with("Controller,") || rest.ends_with(','))
            .map(|(module, _)| module.to_owned())
            .collect();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/loops");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned()))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        assert_eq!(listed, files);
    }
}
