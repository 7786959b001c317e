//! What each kind of step does.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::condition::{Compiled, Condition};
use shakedown_core::kinds::Kind;
use shakedown_core::partial;
use shakedown_core::plan::{Action, Check, ObjectRef, Step};
use shakedown_core::sabotage::Sabotage;
use shakedown_core::timeline::What;
use tokio::time::Instant;

use crate::event_loop::{Awaited, EventLoop};
use crate::goal::Goal;
use crate::run::{Session, Stop};

impl Session<'_> {
    /// Does one step; its moment is recorded when it has come.
    pub(crate) async fn step(&mut self, step: &Step) -> Result<(), Stop> {
        let asked = Instant::now();
        let doing = |stop: Stop| match stop {
            Stop::Failed { doing, why } if doing == "asking the API" => {
                Stop::failed(format!("step {} ({})", step.index, step.source), why)
            }
            other => other,
        };
        let is_write = matches!(
            &step.action,
            Action::Apply(_) | Action::Delete(_) | Action::Patch { .. } | Action::Scale { .. }
        );
        if is_write && self.plan.sabotaged(Sabotage::RunnerSkipsSteps) {
            return self.moment(step, Duration::ZERO);
        }
        match &step.action {
            Action::Fault(fault) => self.inject(step, fault).await?,
            Action::Heal { fault } => self.heal(fault, &step.moment).await?,
            Action::Check(check) => self.check(step, check).await?,
            Action::Wait { time, until: None } => {
                self.wait(asked + *time, |_| false).await?;
                self.moment(step, Duration::ZERO)?;
            }
            Action::Wait { time, until: Some(until) } => {
                self.wait_until(step, asked + *time, until).await?;
            }
            Action::Apply(objects) => {
                for object in objects {
                    let object = self.bound(object)?;
                    self.create(object).await.map_err(doing)?;
                }
                self.moment(step, asked.elapsed())?;
            }
            Action::Delete(object) => {
                let path = self.path(object)?;
                let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
                if let Some(seconds) = object.grace_seconds {
                    options["gracePeriodSeconds"] = json!(seconds);
                }
                self.delete_this(&path, options).await.map_err(Stop::from).map_err(doing)?;
                self.moment(step, asked.elapsed())?;
            }
            Action::Patch { object, fields } => {
                let (path, fields) = (self.path(object)?, self.bound(fields)?);
                self.change(&path, &fields).await.map_err(Stop::from).map_err(doing)?;
                self.moment(step, asked.elapsed())?;
            }
            Action::Scale { object, replicas } => {
                let path = self.path(object)?;
                let fields = json!({"spec": {"replicas": replicas}});
                self.change(&path, &fields).await.map_err(Stop::from).map_err(doing)?;
                self.moment(step, asked.elapsed())?;
            }
        }
        // A fault may end at this step's moment.
        self.service().await
    }

    /// Lets time pass until a condition is true, at most until a time. Its moment is when that was
    /// first seen, or else when the time was over.
    async fn wait_until(
        &mut self,
        step: &Step,
        time: Instant,
        until: &Condition,
    ) -> Result<(), Stop> {
        let compiled = Compiled::new(until).map_err(|error| {
            Stop::failed(format!("step {} ({})", step.index, step.source), error)
        })?;
        self.events.drain()?;
        let mut awaited = Awaited::new(compiled);
        awaited.see(self.events.world(), self.events.now_us(), 0);
        self.events.awaited = Some(awaited);
        let is_met = |events: &EventLoop<'_>| {
            events.awaited.as_ref().is_some_and(|awaited| awaited.met_us.is_some())
        };
        let waited = self.wait(time, is_met).await;
        let awaited = self.events.awaited.take().expect("it was set before the wait");
        waited?;
        match awaited.met_us {
            Some((at_us, error_us)) => {
                let at = self.events.recorder.began() + Duration::from_micros(at_us);
                let what = What::Moment { name: step.moment.clone() };
                Ok(self.events.note_at(at, Duration::from_micros(error_us), what)?)
            }
            None => {
                if let Some(why) = awaited.trouble {
                    let text = format!("step {}: `{until}` has no answer: {why}", step.index);
                    self.events.note(What::Note { text })?;
                }
                self.moment(step, Duration::ZERO)
            }
        }
    }

    fn moment(&mut self, step: &Step, error: Duration) -> Result<(), Stop> {
        let what = What::Moment { name: step.moment.clone() };
        Ok(self.events.note_at(Instant::now(), error, what)?)
    }

    fn bound(&self, value: &Value) -> Result<Value, Stop> {
        partial::bind(value, self.events.world())
            .map_err(|error| Stop::failed("binding names", error))
    }

    fn path(&self, object: &ObjectRef) -> Result<String, Stop> {
        let name = partial::bound_text(&object.name, self.events.world())
            .map_err(|error| Stop::failed("binding names", error))?;
        let kind = Kind::of_id(&object.kind)
            .ok_or_else(|| Stop::failed(format!("naming {name}"), "no such kind is known"))?;
        Ok(kind.path(object.namespace.as_deref().unwrap_or(&self.namespace), &name))
    }

    /// Waits for what must come; of what must always or never be, only the period is opened.
    async fn check(&mut self, step: &Step, check: &Check) -> Result<(), Stop> {
        // The end of a fault that ends by itself may still be to come.
        let patience = Instant::now() + self.events.recorder.limits().scenario;
        let has_come = |events: &EventLoop<'_>| events.world().moment(&check.after).is_some();
        self.wait(patience, has_come).await?;
        let Some(from) = self.events.world().moment(&check.after) else {
            let why = format!("the moment `{}` has not come", check.after);
            return Err(Stop::failed(format!("checking {}", check.id), why));
        };
        let error = self.witness.error() + Duration::from_micros(from.error_us);
        let began = self.events.recorder.began();
        if !check.word.blocks() {
            let closes = began + Duration::from_micros(from.at_us) + check.window.high + error;
            self.open_until = self.open_until.max(closes);
            return self.moment(step, Duration::ZERO);
        }
        (self.progress)(&format!(
            "{} {} within {} after {}",
            check.word, check.condition, check.window, check.after
        ));
        let mut goal = Goal::new(check, from, error)
            .map_err(|error| Stop::failed(format!("checking {}", check.id), error))?;
        self.events.drain()?;
        let (world, events) = self.events.recorder.scenario_so_far();
        goal.replay(world, events, &check.after);
        self.events.goal = Some(goal);
        let outcome = self.reach().await;
        let goal = self.events.goal.take().expect("the goal was set before");
        match (outcome?, goal.met_us()) {
            (true, Some((at_us, error_us))) => {
                let what = What::Moment { name: step.moment.clone() };
                let at = began + Duration::from_micros(at_us);
                Ok(self.events.note_at(at, Duration::from_micros(error_us), what)?)
            }
            _ => {
                if let Some(why) = goal.trouble {
                    self.events.note(What::Note { text: format!("{}: {why}", check.id) })?;
                }
                Err(Stop::Missed(check.id.clone()))
            }
        }
    }

    /// Lets time pass until the goal is met or missed; tells which.
    async fn reach(&mut self) -> Result<bool, Stop> {
        loop {
            let Some(goal) = &self.events.goal else { return Ok(false) };
            let now = self.events.now_us();
            if goal.is_met(now) || goal.is_missed(now) {
                return Ok(goal.is_met(now) && !goal.is_missed(now));
            }
            let wakes = self.events.recorder.began() + Duration::from_micros(goal.wakes_us());
            let before = goal.wakes_us();
            self.wait(wakes, |events| {
                let now = events.now_us();
                // A goal that became true, or no longer is, wakes at another time.
                events
                    .goal
                    .as_ref()
                    .is_none_or(|goal| goal.is_met(now) || goal.wakes_us() != before)
            })
            .await?;
        }
    }
}
