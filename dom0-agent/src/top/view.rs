//! The table on the terminal.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};
use ratatui::{Frame, TerminalOptions, Viewport};

use super::{HEADS, Sample, Sort, Usage, usage};
use crate::cli::TopArgs;
use crate::control::Control;
use crate::error::Result;

/// How wide the columns are, the name's at least.
const WIDTHS: [u16; 14] = [16, 5, 6, 5, 6, 9, 7, 5, 6, 6, 7, 5, 6, 5];

/// What is left out first where there is less room: requests, time, percent of memory, vCPUs.
const LESS: [usize; 5] = [11, 13, 5, 7, 3];

/// The columns that there is room for.
fn columns(room: u16) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..HEADS.len()).collect();
    for less in LESS {
        let width: u16 = columns
            .iter()
            .filter_map(|&column| WIDTHS.get(column))
            .map(|width| width + 1)
            .sum();
        if width <= room.saturating_add(1) {
            break;
        }
        columns.retain(|&column| column != less);
    }
    columns
}

/// A terminal of the usual size.
const USUAL: Rect = Rect::new(0, 0, 80, 24);

/// What is shown, and how.
struct View {
    usage: Usage,
    sort: Sort,
    reverse: bool,
    table: TableState,
}

/// What a key asks for.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    /// To show it again.
    Draw,
    /// To look again.
    Look,
    /// To end.
    End,
}

impl View {
    fn key(&mut self, code: KeyCode, modifiers: KeyModifiers) -> Answer {
        let sort = match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Answer::End,
            KeyCode::Char('q') | KeyCode::Esc => return Answer::End,
            KeyCode::Char(' ') => return Answer::Look,
            KeyCode::Char('r') => {
                self.reverse = !self.reverse;
                self.sort
            }
            KeyCode::Char('c') => Sort::Cpu,
            KeyCode::Char('m') => Sort::Memory,
            KeyCode::Char('n') => Sort::Network,
            KeyCode::Char('d') => Sort::Disk,
            KeyCode::Char('i') => Sort::Id,
            KeyCode::Char('a') => Sort::Name,
            KeyCode::Down | KeyCode::Char('j') => {
                self.table.select_next();
                return Answer::Draw;
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.table.select_previous();
                return Answer::Draw;
            }
            _ => return Answer::Draw,
        };
        self.sort = sort;
        self.usage.sort(sort, self.reverse);
        Answer::Draw
    }

    /// Shows what came new.
    fn update(&mut self, mut usage: Usage) {
        usage.sort(self.sort, self.reverse);
        self.usage = usage;
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [above, middle, below] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let summary = self.usage.summary().map(Line::from);
        frame.render_widget(Paragraph::new(Text::from_iter(summary)), above);
        // The column that is sorted by.
        let sorted: &[usize] = match self.sort {
            Sort::Cpu => &[4],
            Sort::Memory => &[6],
            Sort::Network => &[8, 9],
            Sort::Disk => &[10, 12],
            Sort::Id => &[1],
            Sort::Name => &[0],
        };
        let columns = columns(middle.width);
        let cell = |index: usize, text: String| {
            let alignment = match index {
                0 => Alignment::Left,
                _ => Alignment::Right,
            };
            Cell::from(Text::from(text).alignment(alignment))
        };
        let shown = |(index, _): &(usize, _)| columns.contains(index);
        let head = HEADS
            .iter()
            .enumerate()
            .filter(|(index, _)| columns.contains(index));
        let head = head.map(|(index, head)| {
            let mut style = Style::new().add_modifier(Modifier::REVERSED);
            if sorted.contains(&index) {
                style = style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
            }
            cell(index, (*head).to_owned()).style(style)
        });
        let rows = self.usage.domains.iter().map(|domain| {
            let cells = domain.cells().into_iter().enumerate().filter(shown);
            Row::new(cells.map(|(index, text)| cell(index, text)))
        });
        let widths = columns.iter().map(|&index| match WIDTHS.get(index) {
            Some(&width) if index != 0 => Constraint::Length(width),
            _ => Constraint::Min(WIDTHS[0]),
        });
        let table = Table::new(rows, widths)
            .header(Row::new(head).style(Style::new().add_modifier(Modifier::REVERSED)))
            .row_highlight_style(Style::new().add_modifier(Modifier::BOLD));
        frame.render_stateful_widget(table, middle, &mut self.table);
        let keys = "q end  sort: c CPU  m memory  n network  d disks  i number  a name  r reverse";
        frame.render_widget(Paragraph::new(keys), below);
    }
}

/// Shows it until it is ended.
pub fn run(control: &Control, first: Sample, args: &TopArgs, delay: Duration) -> Result<()> {
    // A serial line does not know how large the terminal at its end is.
    let size = terminal::size().unwrap_or_default();
    let mut terminal = match size {
        (0, _) | (_, 0) => ratatui::try_init_with_options(TerminalOptions {
            viewport: Viewport::Fixed(USUAL),
        })?,
        _ => ratatui::try_init()?,
    };
    let mut before = first;
    // Something to be seen at once: what was used since the domains began is no rate.
    let mut view = View {
        usage: usage(&before, &before),
        sort: args.sort,
        reverse: args.reverse,
        table: TableState::new(),
    };
    view.usage.sort(view.sort, view.reverse);
    let mut left = args.iterations;
    let mut watch = || -> Result<()> {
        let mut next = Instant::now() + delay.min(Duration::from_millis(500));
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            if left == Some(0) {
                return Ok(());
            }
            if event::poll(next.saturating_duration_since(Instant::now()))?
                && let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
            {
                match view.key(key.code, key.modifiers) {
                    Answer::End => return Ok(()),
                    Answer::Look => next = Instant::now(),
                    Answer::Draw => {}
                }
            }
            if Instant::now() >= next {
                let now = Sample::take(control)?;
                view.update(usage(&before, &now));
                before = now;
                next = Instant::now() + delay;
                left = left.map(|left| left - 1);
            }
        }
    };
    let result = watch();
    ratatui::restore();
    result
}

#[cfg(test)]
mod tests {
    use super::super::tests::{info, sample};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn view() -> View {
        let start = Instant::now();
        let before = sample(start, vec![info(0, 0, 1 << 20), info(7, 0, 2 << 20)]);
        let now = sample(
            start + Duration::from_secs(1),
            vec![info(0, 500_000_000, 1 << 20), info(7, 250_000_000, 2 << 20)],
        );
        View {
            usage: usage(&before, &now),
            sort: Sort::Cpu,
            reverse: false,
            table: TableState::new(),
        }
    }

    fn screen(view: &mut View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(120, 8)).expect("a terminal");
        terminal.draw(|frame| view.draw(frame)).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let line = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect();
        buffer.content.chunks(120).map(line).collect()
    }

    #[test]
    fn it_shows_all_domains_and_keys_sort_them() {
        let mut view = view();
        let lines = screen(&mut view);
        assert!(lines[0].starts_with("2 domains: 2 running"), "{lines:#?}");
        assert!(lines[1].starts_with("2 CPUs at 2600 MHz, 37.5 % used; 4096 MiB"));
        assert!(lines[2].starts_with("Name") && lines[2].contains("CPU %"));
        assert!(lines[3].starts_with("Domain-0") && lines[3].contains("50.0"));
        assert!(lines[4].starts_with("guest-7") && lines[4].contains("2048"));
        let key = |view: &mut View, code| view.key(code, KeyModifiers::NONE);
        assert_eq!(key(&mut view, KeyCode::Char('m')), Answer::Draw);
        assert!(screen(&mut view)[3].starts_with("guest-7"));
        key(&mut view, KeyCode::Char('r'));
        assert!(screen(&mut view)[3].starts_with("Domain-0"));
        assert_eq!(key(&mut view, KeyCode::Char('q')), Answer::End);
        assert_eq!(
            view.key(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Answer::End
        );
        assert_eq!(key(&mut view, KeyCode::Char(' ')), Answer::Look);
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out() {
        assert_eq!(columns(200).len(), HEADS.len());
        let usual: Vec<_> = columns(80).into_iter().map(|it| HEADS[it]).collect();
        assert_eq!(
            usual,
            [
                "Name", "ID", "State", "vCPUs", "CPU %", "MiB", "Net in", "out", "Disk in", "out"
            ]
        );
        assert_eq!(columns(1).len(), HEADS.len() - LESS.len());
    }

    #[test]
    fn a_small_terminal_is_enough() {
        for (width, height) in [(1, 1), (20, 3), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("one");
            terminal.draw(|frame| view().draw(frame)).expect("drawn");
        }
    }
}
