"""The agent's log: oslo.log, set up and renewed as its options say, and the options judged before."""

import configparser
import errno
import logging
import logging.handlers
import os
import stat
from pathlib import Path
from typing import Any

from oslo_log import formatters, handlers, log

from nova_netagent.conf import ConfigError


def judge(opts: Any) -> None:
    """Refuse options by which the log could not be set up on this host; touches nothing.

    What a file of ``log_config_append`` asks for shows when it is done.

    :raises ConfigError: naming the option.
    """
    if opts.log_config_append:
        _judge_file(opts.log_config_append)
        return  # oslo.log heeds nothing else then
    for pair in opts.default_log_levels:
        _judge_level(pair)
    if opts.use_syslog or opts.use_journal:
        facility = opts.syslog_log_facility.lower().removeprefix("log_")
        known = sorted(logging.handlers.SysLogHandler.facility_names)
        if facility not in known:
            raise _refusal("syslog_log_facility", opts.syslog_log_facility, f"none of {', '.join(known)}")
    if opts.use_journal and handlers.journal is None:  # type: ignore[attr-defined]
        raise _refusal("use_journal", "true", "this host has no systemd.journal for Python")
    _judge_directory(opts)


def _judge_level(pair: str) -> None:
    level = pair.partition("=")[2]
    if level not in logging.getLevelNamesMapping() and not level.isdecimal():
        raise _refusal("default_log_levels", pair, "it is not like NAME=INFO")


def _judge_file(path: str) -> None:
    parser = configparser.ConfigParser()
    try:
        parser.read_string(Path(path).read_text(), path)
        for section in ("loggers", "handlers", "formatters"):
            parser.get(section, "keys")
    except OSError as error:
        raise _refusal("log_config_append", path, error.strerror) from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise _refusal("log_config_append", path, error) from error


def _judge_directory(opts: Any) -> None:
    file, folder = opts.log_file, opts.log_dir
    option, directory = ("log_file", os.path.dirname(os.path.join(folder or "", file))) if file else ("log_dir", folder)
    if file and os.path.isdir(os.path.join(folder or "", file)):
        raise _refusal(option, file, os.strerror(errno.EISDIR))
    if not directory:
        return
    try:
        mode = os.stat(directory).st_mode
    except OSError as error:
        raise _refusal(option, opts[option], error.strerror) from error
    if not stat.S_ISDIR(mode):
        raise _refusal(option, opts[option], os.strerror(errno.ENOTDIR))


class _Formatter(formatters.ContextFormatter):
    """Our own lines say what was wrong; oslo.log says it once more in those that are written while it is handled."""

    def format(self, record: logging.LogRecord) -> str:
        text: str = super().format(record)
        summary = getattr(record, "error_summary", "")
        is_told = record.name.partition(".")[0] == __package__ and not record.exc_info
        return text.removesuffix(f": {summary}") if summary and is_told else text


def setup(opts: Any) -> None:
    """Set the log up as the options want it.

    :raises ConfigError: it cannot be.
    """
    try:
        log.setup(opts, "nova-netagent", fix_eventlet=False)
    except Exception as error:  # whatever the handlers raise that a file names
        raise _failed(opts, error) from error
    for handler in logging.root.handlers:
        if type(handler.formatter) is formatters.ContextFormatter:
            handler.setFormatter(_Formatter(project="nova-netagent", datefmt=opts.log_date_format, config=opts))


def renew(opts: Any) -> None:
    """Take over from the configuration's files what may change.

    :raises ConfigError: it cannot be; the log is as it was.
    """
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    kept = [(each, each.level, each.handlers, each.propagate) for each in (logging.root, *known)]
    try:
        opts.mutate_config_files()
    except Exception as error:  # as above; oslo.log has taken every logger's handlers away before it tried
        for logger, level, had, propagate in kept:
            logger.setLevel(level)
            logger.handlers, logger.propagate = had, propagate
        raise _failed(opts, error) from error
    if not opts.log_config_append:
        # oslo.log does so when it sees a change, and one that came with what failed before is none to it.
        logging.root.setLevel(logging.DEBUG if opts.debug else logging.INFO)


def _failed(opts: Any, error: Exception) -> ConfigError:
    reason = getattr(error, "err_msg", None) or getattr(error, "strerror", None) or error
    for option in ("log_config_append", "log_file", "log_dir"):
        if opts[option]:
            return _refusal(option, opts[option], reason)
    return ConfigError(f"the log cannot be set up: {reason}")


def _refusal(option: str, value: str, reason: object) -> ConfigError:
    return ConfigError(f"[DEFAULT] {option} = {value}: {' '.join(str(reason).split())}")
