// SPDX-License-Identifier: GPL-2.0

//! How `top` looks.

use super::model::{Model, Order};
use crate::command::sentence;
use crate::paint;
use crate::units;
use comfy_table::Color as Hue;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Gauge, Paragraph, Row, Sparkline, Table, TableState};
use ratatui::Frame;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model, colors: bool) {
    let [head, region, table, chart, events, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(5),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let tint = |color| {
        if colors {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    };
    self::head(frame, head, model, &tint);
    gauge(frame, region, model, &tint);
    groups(frame, table, model, &tint);
    history(frame, chart, model, &tint);
    log(frame, events, model, &tint);
    let order = match model.order {
        Order::Path => "path",
        Order::Coverage => "coverage",
        Order::Cpu => "CPU",
    };
    let text = format!(
        " q quit  ↑↓ choose  s sorted by {order}  space {}",
        if model.paused { "go on" } else { "pause" }
    );
    frame.render_widget(
        Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM)),
        keys,
    );
}

fn head(frame: &mut Frame<'_>, area: Rect, model: &Model, tint: &dyn Fn(Color) -> Style) {
    let events = &model.now.events;
    let number = |key: &str, color| {
        let count = events.get(key);
        let style = if count > 0 { tint(color) } else { Style::new() };
        Span::styled(
            format!("{} {}  ", units::count(count), key.replace('_', " ")),
            style,
        )
    };
    let line = Line::from(vec![
        Span::styled(" kmirror  ", tint(Color::Cyan).add_modifier(Modifier::BOLD)),
        number("restored", Color::Green),
        number("unrestorable", Color::Red),
        number("replica_lost", Color::Yellow),
        Span::raw(if model.paused { "PAUSED" } else { "" }),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

fn gauge(frame: &mut Frame<'_>, area: Rect, model: &Model, tint: &dyn Fn(Color) -> Style) {
    let region = &model.now.region;
    let share = if region.total == 0 {
        0.0
    } else {
        region.used() as f64 / region.total as f64
    };
    let color = if share > 0.9 { Color::Red } else { Color::Blue };
    let label = format!(
        "region: {} of {} used",
        units::bytes(region.used()),
        units::bytes(region.total)
    );
    let gauge = Gauge::default()
        .ratio(share.clamp(0.0, 1.0))
        .label(label)
        .gauge_style(tint(color));
    frame.render_widget(gauge, area);
}

fn groups(frame: &mut Frame<'_>, area: Rect, model: &Model, tint: &dyn Fn(Color) -> Style) {
    let head = [
        "CGROUP",
        "MODE",
        "COVERAGE",
        "",
        "PROTECTED",
        "REPLICAS",
        "COPIED/s",
        "CPU",
        "RESTORED",
        "LOST",
    ];
    let lines = model.lines();
    let chosen = lines
        .iter()
        .position(|&at| model.now.groups[at].path == model.chosen);
    let rows = lines.iter().map(|&at| {
        let group = &model.now.groups[at];
        let rate = model.rates.get(&group.path).copied().unwrap_or_default();
        let covered = group.stat("protected") > 0;
        let ppm = group.coverage_ppm.unwrap_or(0);
        let color = match paint::of_coverage(ppm) {
            Hue::Green => Color::Green,
            Hue::Yellow => Color::Yellow,
            _ => Color::Red,
        };
        let bar = if covered { bar(ppm, 12) } else { String::new() };
        let percent = if covered {
            units::percent(ppm)
        } else {
            "-".into()
        };
        let protected = if covered {
            units::bytes(group.protected_bytes())
        } else {
            "-".into()
        };
        Row::new(vec![
            Cell::new(group.path.clone()),
            Cell::new(group.mode_in_force.clone()),
            right(percent).style(tint(color)),
            Cell::new(bar).style(tint(color)),
            right(protected),
            right(units::bytes(group.replica_bytes)),
            right(units::pages(rate.copied as u64)),
            right(units::share(rate.cpu)),
            right(units::count(group.events.get("restored"))),
            right(units::count(group.events.get("unrestorable"))),
        ])
    });
    let widths = [
        Constraint::Min(20),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(5),
    ];
    let heads = head.iter().enumerate().map(|(at, name)| {
        if at < 2 {
            Cell::new(*name)
        } else {
            right((*name).to_owned())
        }
    });
    let table = Table::new(rows, widths)
        .header(Row::new(heads).style(tint(Color::Cyan).add_modifier(Modifier::BOLD)))
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::TOP));
    let mut state = TableState::default().with_selected(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}

fn right(text: String) -> Cell<'static> {
    Cell::new(Line::from(text).alignment(Alignment::Right))
}

/// A bar of `width` characters, in eighths.
fn bar(ppm: u32, width: u32) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = u64::from(ppm) * u64::from(width) * 8 / 1_000_000;
    let mut text = "█".repeat((eighths / 8) as usize);
    if eighths % 8 > 0 {
        text.push(PARTS[(eighths % 8) as usize]);
    }
    text
}

fn history(frame: &mut Frame<'_>, area: Rect, model: &Model, tint: &dyn Fn(Color) -> Style) {
    let empty = Default::default();
    let line = model.coverage.get(&model.chosen).unwrap_or(&empty);
    let width = area.width as usize;
    let data: Vec<u64> = line
        .iter()
        .copied()
        .skip(line.len().saturating_sub(width))
        .collect();
    let title = format!(" coverage of {}, 0 to 100 % ", model.chosen);
    let chart = Sparkline::default()
        .block(Block::new().borders(Borders::TOP).title(title))
        .data(&data)
        .max(1_000_000)
        .style(tint(Color::Green));
    frame.render_widget(chart, area);
}

fn log(frame: &mut Frame<'_>, area: Rect, model: &Model, tint: &dyn Fn(Color) -> Style) {
    let height = usize::from(area.height.saturating_sub(1));
    let lines = model.events.iter().rev().take(height).map(|(time, event)| {
        let ago = (model.now.time - time).max(0.0);
        let color = match event.event.as_str() {
            "restored" => Color::Green,
            "unrestorable" => Color::Red,
            _ => Color::Yellow,
        };
        Line::styled(
            format!(" {ago:>5.0} s ago  {}", sentence(event)),
            tint(color),
        )
    });
    let lines: Vec<Line<'_>> = lines.collect();
    let text = if lines.is_empty() {
        vec![Line::raw(" nothing yet")]
    } else {
        lines
    };
    let block = Block::new().borders(Borders::TOP).title(" events ");
    frame.render_widget(Paragraph::new(text).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_full_only_when_all_is_covered() {
        assert_eq!(bar(1_000_000, 4), "████");
        assert_eq!(bar(999_999, 4), "███▉");
        assert_eq!(bar(500_000, 4), "██");
        assert_eq!(bar(0, 4), "");
    }
}
