"""Maps as text, with one line per row. Each game defines the meaning of the letters.

Two maps are from SSD, the sequential social dilemma games (https://github.com/eugenevinitsky/
sequential_social_dilemma_games), so that results are comparable; copyright (c) 2020 Eugene Vinitsky, MIT license.
"""

# The two small maps of Yang et al. (2020), with the start cells of their agents.
CLEANUP_SMALL = """
@@@@@@@
@H  1B@
@H   B@
@    B@
@    B@
@ 0  B@
@@@@@@@"""

CLEANUP_MEDIUM = """
@@@@@@@@@@
@HH   2 B@
@RR    BB@
@HH     B@
@RR    BB@
@HH 1   B@
@RR    BB@
@HH     B@
@RR0   BB@
@@@@@@@@@@"""

# The grid of Meulemans et al. (2025): the river, start cells, the orchard.
CLEANUP_LITE = """
RPPPB
RPPPB
RPPPB
RPPPB"""

# The map of SSD: 119 river cells (56 of them dirty), 12 stream cells, 103 orchard cells, 10 start cells.
CLEANUP_FULL = """
@@@@@@@@@@@@@@@@@@
@RRRRRR     BBBBB@
@HHHHHH      BBBB@
@RRRRRR     BBBBB@
@RRRRR  P    BBBB@
@RRRRR    P BBBBB@
@HHHHH       BBBB@
@RRRRR      BBBBB@
@HHHHHHSSSSSSBBBB@
@HHHHHHSSSSSSBBBB@
@RRRRR   P P BBBB@
@HHHHH   P  BBBBB@
@RRRRRR    P BBBB@
@HHHHHH P   BBBBB@
@RRRRR       BBBB@
@HHHH    P  BBBBB@
@RRRRR       BBBB@
@HHHHH  P P BBBBB@
@RRRRR       BBBB@
@HHHH       BBBBB@
@RRRRR       BBBB@
@HHHHH      BBBBB@
@RRRRR       BBBB@
@HHHH       BBBBB@
@@@@@@@@@@@@@@@@@@"""

# 147 river cells (79 of them dirty), 20 stream cells, 122 orchard cells, 19 start cells, as many as in Melting Pot.
CLEANUP_MELTING_POT = """
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@RHHHRHHHRHHHRHRHRHHHRHRHHHRH@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@          HRHRHRH           @
@            SSSS            @
@ P   P   P  SSSS P   P   P  @
@            SSSS            @
@ P   P   P  SSSS P   P   P  @
@            SSSS            @
@ P   P   P   P   P   P   P  @
@                            @
@                            @
@B B B B B B B B B B B B B B @
@BBBBBBBBBBBBBBBBBBBBBBBBBBBB@
@BBBBBBBBBBBBBBBBBBBBBBBBBBBB@
@BBBBBBBBBBBBBBBBBBBBBBBBBBBB@
@BBBBBBBBBBBBBBBBBBBBBBBB    @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@"""

# 20 apples in four patches, 8 start cells.
HARVEST_SMALL = """
@@@@@@@@@@@
@P   P   P@
@  A   A  @
@ AAA AAA @
@  A   A  @
@P       P@
@  A   A  @
@ AAA AAA @
@  A   A  @
@P   P   P@
@@@@@@@@@@@"""

# The map of SSD: 155 apples, 20 start cells.
HARVEST_FULL = """
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@ P   P      A    P AAAAA    P  A P  @
@  P     A P AA    P    AAA    A  A  @
@     A AAA  AAA    A    A AA AAAA   @
@ A  AAA A    A  A AAA  A  A   A A   @
@AAA  A A    A  AAA A  AAA        A P@
@ A A  AAA  AAA  A A    A AA   AA AA @
@  A A  AAA    A A  AAA    AAA  A    @
@   AAA  A      AAA  A    AAAA       @
@ P  A       A  A AAA    A  A      P @
@A  AAA  A  A  AAA A    AAAA     P   @
@    A A   AAA  A A      A AA   A  P @
@     AAA   A A  AAA      AA   AAA P @
@ A    A     AAA  A  P          A    @
@       P     A         P  P P     P @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@"""

# 64 apples, 60 start cells, as many as in Melting Pot.
HARVEST_MELTING_POT = """
@@@@@@@@@@@@@@@@@@@@@@@@
@PPPPPPPPPPPPPPPPPPPPPP@
@    A           A     @
@   AAA         AAA    @
@  AAAAA       AAAAA   @
@   AAA         AAA    @
@    A     A     A     @
@P P P P PAAAP P P P P @
@  A     AAAAA     A   @
@         AAA          @
@P P P P P A P         @
@     A      A         @
@    AAA    AAA   A    @
@   AAAAA    A   AAA   @
@    AAA          A    @
@     A                @
@PPPPPPPPPPPPPPPPPPPPPP@
@@@@@@@@@@@@@@@@@@@@@@@@"""

# Five tokens of each of two kinds, three start cells.
MATRIX_SMALL = """
@@@@@@@
@ab ba@
@  P  @
@bP Pa@
@     @
@ab ba@
@@@@@@@"""

# 12 tokens of each of two kinds, 12 of a kind drawn per episode, 13 start cells, as many as in Melting Pot.
MATRIX_MELTING_POT = """
@@@@@@@@@@@@@@@@@@@@@@@
@P    P    P    P    P@
@   @@@    @    @@@   @
@  aaa ?   @   ? bbb  @
@  aaa ?   @   ? bbb  @
@        ?   ?        @
@ @@@@@         @@@@@ @
@P         P         P@
@ @@@@@         @@@@@ @
@        ?   ?        @
@  bbb ?   @   ? aaa  @
@  bbb ?   @   ? aaa  @
@   @@@    @    @@@   @
@P    P    P    P    P@
@@@@@@@@@@@@@@@@@@@@@@@"""
