//! A watch under way: its pieces as they leave the server, and as they arrive at the client.
//!
//! Bytes of one connection never overtake each other. In bad weather, or behind a rule that holds
//! notifications back, many pieces are on their way at once; else one is, and nothing is queued.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use env::Gate;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body::{Body as _, Frame};
use shakedown_core::lever::Traffic;
use tokio::time::Instant;

use crate::link::{Link, LinkError};
use crate::meddle::{Meddling, Notice};
use crate::wire::Busy;

/// How many pieces may be on their way before the server waits.
const UNDER_WAY_MAX: usize = 10_000;

/// What arrives at the client.
enum Arrival {
    Piece(Bytes),
    /// The server has ended the watch.
    End,
    /// The connection breaks.
    Broken,
}

/// What the server's body yielded: a frame, its end, or nothing more because the process is dead.
type Told = Option<Option<Result<Frame<Bytes>, std::convert::Infallible>>>;

/// The numbers of the rules that have withheld something from a watch.
type Withheld = Arc<Mutex<BTreeSet<u64>>>;

const UNBROKEN: &str = "no code panics while it holds the numbers";

struct Watching {
    link: Link,
    gate: Gate,
    body: apiserver::Body,
    /// The kind that is watched, as rules name it.
    kind: Option<String>,
    under_way: VecDeque<(Instant, Arrival)>,
    /// When the last piece arrives.
    last: Instant,
    /// More than one piece may be on its way.
    is_rough: bool,
    /// The server says no more.
    is_over: bool,
    /// Resets of the connection before it was opened.
    resets: u64,
    /// What has come from the server and was not passed on.
    withheld: Withheld,
    _busy: Busy,
}

/// The pieces of a watch, as they arrive at the client.
pub(crate) fn follow(
    link: Link,
    gate: Gate,
    body: apiserver::Body,
    kind: Option<String>,
    (resets, busy): (u64, Busy),
) -> BoxStream<'static, Result<Bytes, LinkError>> {
    let watching = Watching {
        link,
        gate,
        body,
        kind,
        under_way: VecDeque::new(),
        last: Instant::now(),
        is_rough: false,
        is_over: false,
        resets,
        withheld: Withheld::default(),
        _busy: busy,
    };
    let pieces = futures::stream::unfold(Some(watching), |watching| async move {
        let mut watching = watching?;
        let (wire, world) = (watching.link.wire.clone(), watching.link.world.clone());
        let withheld = watching.withheld.clone();
        let arrival = tokio::select! {
            biased;
            _ = wire.resets.after(watching.resets) => Arrival::Broken,
            () = thawed(&world.meddling, &withheld) => Arrival::Broken,
            arrival = watching.next() => arrival,
        };
        match arrival {
            Arrival::Piece(bytes) => Some((Ok(bytes), Some(watching))),
            Arrival::End => None,
            Arrival::Broken => Some((Err(LinkError::Reset(watching.link.to)), None)),
        }
    });
    pieces.boxed()
}

impl Watching {
    async fn next(&mut self) -> Arrival {
        loop {
            let Some(at) = self.under_way.front().map(|(at, _)| *at) else {
                self.is_rough = false;
                if self.is_over {
                    return Arrival::End;
                }
                let told = told(&self.gate, &mut self.body).await;
                self.send(told).await;
                continue;
            };
            let may_send = self.is_rough && !self.is_over && self.under_way.len() < UNDER_WAY_MAX;
            if !may_send {
                tokio::time::sleep_until(at).await;
            } else {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {}
                    told = told(&self.gate, &mut self.body) => {
                        self.send(told).await;
                        continue;
                    }
                }
            }
            if let Some((_, arrival)) = self.under_way.pop_front() {
                return arrival;
            }
        }
    }

    /// Puts what the server says on its way.
    async fn send(&mut self, told: Told) {
        match told {
            Some(Some(Ok(frame))) => {
                let link = &self.link;
                // What is never acknowledged soon stops flowing: both directions must be open.
                link.world.net.through(&link.from, &link.to, Traffic::Api).await;
                link.world.net.through(&link.to, &link.from, Traffic::Api).await;
                let bytes = frame.into_data().unwrap_or_default();
                self.send_piece(bytes);
            }
            Some(Some(Err(never))) => match never {},
            Some(None) => self.send_last(Arrival::End).await,
            None => {
                // Without power nobody is left to reset the connection.
                self.link.node().powered().await;
                self.send_last(Arrival::Broken).await;
            }
        }
    }

    fn send_piece(&mut self, bytes: Bytes) {
        let delay = self.delay();
        let meddling = &self.link.world.meddling;
        let (Some(component), Some(kind)) = (self.link.component, &self.kind) else {
            return self.arrives(delay, Arrival::Piece(bytes));
        };
        if meddling.is_idle() {
            return self.arrives(delay, Arrival::Piece(bytes));
        }
        for notice in meddling.notify(&self.link.from, component, kind, bytes) {
            match notice {
                Notice::Told(bytes, later) => {
                    self.is_rough |= !later.is_zero();
                    self.arrives(delay + later, Arrival::Piece(bytes));
                }
                Notice::Withheld(number) => {
                    self.withheld.lock().expect(UNBROKEN).insert(number);
                }
                Notice::Break => {
                    self.is_over = true;
                    self.arrives(delay, Arrival::Broken);
                }
            }
        }
    }

    async fn send_last(&mut self, arrival: Arrival) {
        self.is_over = true;
        self.link.world.net.through(&self.link.to, &self.link.from, Traffic::Api).await;
        let delay = self.delay();
        self.arrives(delay, arrival);
    }

    /// How long a piece sent now is on its way.
    fn delay(&mut self) -> Duration {
        let link = &self.link;
        if link.from == link.to {
            return Duration::ZERO;
        }
        let (calm, bad) = link.world.net.delay(&link.to, &link.from, Traffic::Api);
        self.is_rough |= bad.is_some();
        calm + bad.unwrap_or_default()
    }

    fn arrives(&mut self, after: Duration, arrival: Arrival) {
        self.last = self.last.max(Instant::now() + after);
        self.under_way.push_back((self.last, arrival));
    }
}

/// Waits until a rule is lifted that has withheld something.
async fn thawed(meddling: &Meddling, withheld: &Withheld) {
    loop {
        let seen = meddling.lifted.count();
        if meddling.is_one_lifted(&withheld.lock().expect(UNBROKEN)) {
            return;
        }
        meddling.lifted.after(seen).await;
    }
}

async fn told(gate: &Gate, body: &mut apiserver::Body) -> Told {
    gate.guard(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await
}
