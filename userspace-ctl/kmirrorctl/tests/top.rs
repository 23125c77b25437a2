// SPDX-License-Identifier: GPL-2.0

//! `top`: the whole screen, drawn into memory.

mod fake;

use fake::{golden, Fake};
use kmirrorctl::snapshot::{Scope, Snapshot};
use kmirrorctl::system::System;
use kmirrorctl::top::model::{Model, Order};
use kmirrorctl::top::view;
use ratatui::backend::TestBackend;
use ratatui::Terminal;
use std::time::Duration;

fn screen(model: &Model) -> String {
    let mut terminal = Terminal::new(TestBackend::new(120, 26)).unwrap();
    terminal
        .draw(|frame| view::draw(frame, model, false))
        .unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    let lines: Vec<String> = rows
        .map(|row| {
            let line: String = row.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned()
        })
        .collect();
    lines.join("\n") + "\n"
}

#[test]
fn the_screen() {
    let fake = Fake::busy();
    let system = System::at(fake.root());
    let take = || Snapshot::take(&system, "/system.slice", Scope::Set).unwrap();
    let first = take();
    let mut model = Model::new(first.clone());
    fake.group(
        "/system.slice/web.service",
        "tracked",
        &fake::STAT.replace("copied 4100", "copied 6148"),
        "restored 5\nunrestorable 1\n",
    );
    let mut second = take();
    second.at = first.at + Duration::from_secs(2);
    second.time = first.time;
    model.update(second);
    golden("top", &screen(&model));
}

#[test]
fn lines_are_chosen_and_sorted() {
    let fake = Fake::busy();
    fake.group("/a", "tracked", "protected 100\ncurrent 50\n", "");
    let system = System::at(fake.root());
    let take = || Snapshot::take(&system, "/", Scope::Set).unwrap();
    let mut model = Model::new(take());
    assert_eq!(model.chosen, "/");
    model.step(1);
    assert_eq!(model.chosen, "/a");
    model.step(100);
    assert_eq!(model.chosen, "/system.slice/web.service");
    model.step(-100);
    assert_eq!(model.chosen, "/");
    model.turn();
    assert_eq!(model.order, Order::Coverage);
    let worst = model.lines()[0];
    assert_eq!(model.now.groups[worst].path, "/a");
    // The chosen one goes: another is chosen.
    model.chosen = "/a".into();
    std::fs::remove_dir_all(fake.path("/sys/kernel/kmirror/cgroup/a")).unwrap();
    model.update(take());
    assert_ne!(model.chosen, "/a");
    assert!(!model.coverage.contains_key("/a"), "nothing is kept of it");
}

#[test]
fn without_a_terminal() {
    let fake = Fake::busy();
    assert_eq!(fake.err(&["top"]).0, 2);
    let text = fake.ok(&["top", "-n", "2", "-d", "100", "--json"]);
    assert_eq!(text.lines().count(), 2);
    for line in text.lines() {
        let _: serde_json::Value = serde_json::from_str(line).unwrap();
    }
}
