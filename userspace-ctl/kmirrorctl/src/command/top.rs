// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl top`.

use super::{json, print, Context};
use crate::cli::TopArgs;
use crate::error::{Error, Result};
use crate::snapshot::{Scope, Snapshot};
use crate::table;
use crate::top::model::Model;
use crate::top::view;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

pub(super) fn run(cx: &Context, args: &TopArgs) -> Result<()> {
    let path = cx.resolve(args.path.as_deref())?;
    let take = || Snapshot::take(&cx.system, &path, Scope::Set);
    let every = Duration::from_millis(args.delay);
    if let Some(count) = args.iterations {
        return lines(cx, count, every, &take);
    }
    if cx.json || !std::io::stdout().is_terminal() {
        return Err(Error::usage(
            "top needs a terminal; -n COUNT prints so many looks instead, with --json a line each",
        ));
    }
    let mut model = Model::new(take()?);
    let mut terminal = ratatui::init();
    let result = live(&mut terminal, &mut model, every, cx.paint.is_on(), &take);
    ratatui::restore();
    result
}

/// So many looks, as text or lines of JSON.
fn lines(
    cx: &Context,
    count: u64,
    every: Duration,
    take: &dyn Fn() -> Result<Snapshot>,
) -> Result<()> {
    for turn in 0..count {
        if turn > 0 {
            std::thread::sleep(every);
        }
        let now = take()?;
        if cx.json {
            print(&format!("{}\n", json(&now, false)?))?;
        } else {
            print(&format!("{}\n", table::status(&now, cx.paint)))?;
        }
    }
    Ok(())
}

/// Until the user has seen enough.
fn live(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    every: Duration,
    colors: bool,
    take: &dyn Fn() -> Result<Snapshot>,
) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::failed(format!("the terminal cannot be used: {error}; try -n 1"))
    };
    let mut next = Instant::now() + every;
    loop {
        terminal
            .draw(|frame| view::draw(frame, model, colors))
            .map_err(failed)?;
        if event::poll(next.saturating_duration_since(Instant::now())).map_err(failed)? {
            if let Event::Key(key) = event::read().map_err(failed)? {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    _ if key.kind == KeyEventKind::Release => {}
                    KeyCode::Char('c') if control => return Ok(()),
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char(' ') => model.paused = !model.paused,
                    KeyCode::Char('s') => model.turn(),
                    KeyCode::Up | KeyCode::Char('k') => model.step(-1),
                    KeyCode::Down | KeyCode::Char('j') => model.step(1),
                    _ => {}
                }
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + every;
            if !model.paused {
                model.update(take()?);
            }
        }
    }
}
