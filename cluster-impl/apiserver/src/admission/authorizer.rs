//! `authorizer` in expressions: asks whether the user may do something else.
//!
//! Limits: it asks roles and bindings only, not what a kubelet may do for its node's pods; field and
//! label selectors are accepted and do not narrow anything, as no rule of a role names them.

use std::sync::Arc;

use machinery::Status;

use super::Review;
use crate::authorization::{self, Attributes, Judge, Verdict};
use crate::cel::{self, Native, Value};
use crate::config::User;

/// The variable.
pub(super) async fn value(review: &Review<'_>) -> Result<Value, Status> {
    let judge = Arc::new(authorization::judge(review.server, review.user).await?);
    let ask = Ask {
        judge,
        user: review.user.clone(),
        form: Form::Whole,
        group: review.kind.group.to_owned(),
        resource: review.kind.plural.to_owned(),
        subresource: review.subresource.to_owned(),
        namespace: review.key.namespace.clone(),
        name: review.key.name.clone(),
        path: String::new(),
    };
    Ok(cel::native(ask))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `authorizer`
    Whole,
    /// `authorizer.path('/healthz')`
    Path,
    /// `authorizer.group('apps')`
    Group,
    /// `authorizer.group('apps').resource('deployments')`
    Resource,
}

/// A question that is put together call by call.
#[derive(Debug, Clone)]
struct Ask {
    judge: Arc<Judge>,
    user: User,
    form: Form,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    path: String,
}

impl Ask {
    fn decide(&self, verb: &str) -> Verdict {
        let asked = match self.form {
            Form::Path => Attributes { verb, path: &self.path, ..Attributes::default() },
            _ => Attributes {
                subresource: &self.subresource,
                namespace: &self.namespace,
                name: &self.name,
                ..Attributes::resource(verb, &self.group, &self.resource)
            },
        };
        self.judge.decide(&self.user, &asked)
    }
}

impl Native for Ask {
    fn type_name(&self) -> &'static str {
        match self.form {
            Form::Whole => "kubernetes.authorization.Authorizer",
            Form::Path => "kubernetes.authorization.PathCheck",
            Form::Group => "kubernetes.authorization.GroupCheck",
            Form::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Result<Value, String> {
        let arguments = arguments.iter().map(|argument| match argument {
            Value::String(text) => Ok(text.as_str()),
            _ => Err("no such overload".to_owned()),
        });
        let arguments: Vec<&str> = arguments.collect::<Result<_, _>>()?;
        let mut next = self.clone();
        match (self.form, method, arguments.as_slice()) {
            (Form::Whole, "requestResource", []) => next.form = Form::Resource,
            (Form::Whole, "path", [path]) => {
                (next.form, next.path) = (Form::Path, (*path).to_owned());
            }
            (Form::Whole, "serviceAccount", [namespace, name]) => {
                let groups = [
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                ];
                let account = format!("system:serviceaccount:{namespace}:{name}");
                next.user = User::with_groups(&account, groups.into());
            }
            (Form::Whole, "group", [group]) => {
                (next.form, next.group) = (Form::Group, (*group).to_owned());
            }
            (Form::Group, "resource", [resource]) => {
                (next.form, next.resource) = (Form::Resource, (*resource).to_owned());
                next.subresource.clear();
                next.namespace.clear();
                next.name.clear();
            }
            (Form::Resource, "subresource", [part]) => next.subresource = (*part).to_owned(),
            (Form::Resource, "namespace", [namespace]) => next.namespace = (*namespace).to_owned(),
            (Form::Resource, "name", [name]) => next.name = (*name).to_owned(),
            (Form::Resource, "fieldSelector" | "labelSelector", [_]) => {}
            (Form::Resource | Form::Path, "check", [verb]) => {
                return Ok(cel::native(Decision(self.decide(verb))));
            }
            _ => return Err("no such overload".to_owned()),
        }
        Ok(cel::native(next))
    }
}

/// What was decided.
#[derive(Debug)]
struct Decision(Verdict);

impl Native for Decision {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Result<Value, String> {
        match (method, arguments) {
            ("allowed", []) => Ok(Value::Bool(self.0.is_allowed)),
            ("reason", []) => Ok(cel::text(&self.0.reason)),
            ("errored", []) => Ok(Value::Bool(false)),
            ("error", []) => Ok(cel::text("")),
            _ => Err("no such overload".to_owned()),
        }
    }
}
