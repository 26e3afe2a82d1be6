"""What people want done with a text: summarized, rewritten, made a table. One skill a file.

    asking.py      how a skill asks a session, in which tone, and what it cost      summarize.py   long to short
    rewrite.py     the same in other words                                          table.py       prose to rows

Boundary: a session and a text in, a result out; files and the terminal are the verbs', in cli/skills.py. A text may be
longer than the context, which long_text.py sees to.
"""
